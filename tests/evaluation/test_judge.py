"""Contestants meet the same worlds, and controls are what they are called."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators.client_trust import knob_of_clip, knob_of_trim
from metasg_jax.config import FLConfig, GameConfig, RunConfig
from metasg_jax.errors import ConfigError, UnknownNameError
from metasg_jax.evaluation.contestants import (
    Contestant,
    parse_contestant,
)
from metasg_jax.evaluation.judge import judge, summary
from metasg_jax.evaluation.switching import cycle
from metasg_jax.game.make import make_game
from metasg_jax.game.rollout import Player, init_normalizer
from metasg_jax.policies import Fixed
from metasg_jax.testing import tiny_dataset

TYPES = ("none", "ipm:scale=9@0.4", "bfl@0.4")
CONFIG = RunConfig(
    GameConfig(types=TYPES, hidden=(6,), num_root=12, num_validation=30, partition="iid"),
    FLConfig(num_clients=10, num_sampled=5, batch_size=8, horizon=12, local_lr=0.5),
)
NAMES = ("told", "root_only", "mean", "constant", "mean / fine_tune", "v1")


@pytest.fixture(scope="module")
def judged():
    contestants = [parse_contestant(name, 5) for name in NAMES]
    return judge(contestants, CONFIG, tiny_dataset(side=6), range(2))


def of(judged, name):
    return judged.score[judged.names.index(name)]


def test_who_is_told_keeps_the_honest_and_nobody_else(judged):
    kept = judged.kept[judged.names.index("told")]
    assert (kept[:, :, 0] == 1).all() and (kept[:, 1:, 1] == 0).all()
    assert np.isnan(kept[:, 0, 1]).all(), "no malicious client, no share of them"
    assert of(judged, "told")[:, 1].mean() > of(judged, "mean")[:, 1].mean() + 0.2


def test_trusting_everybody_with_open_knobs_is_the_mean(judged):
    np.testing.assert_allclose(of(judged, "constant"), of(judged, "mean"), atol=0.02)


def test_a_player_turns_the_knobs_of_a_rule(judged):
    """Open knobs are the mean, and closed ones are not."""
    game = make_game(
        dataclasses.replace(CONFIG.game, rule="clipped_trimmed_mean", post_defense="none"),
        CONFIG.fl, tiny_dataset(side=6),
    )  # fmt: skip
    who = [
        Contestant(
            name, "rule", Player(jnp.array(knobs), init_normalizer(game.observation_spec), Fixed(2), True),
            name, rule="clipped_trimmed_mean", observation="statistics",
        )
        for name, knobs in (("open", (1.0, -1.0)), ("closed", (-1.0, 1.0)))
    ]  # fmt: skip
    steered = judge(who, CONFIG, tiny_dataset(side=6), range(2))
    np.testing.assert_allclose(of(steered, "open"), of(judged, "mean"), atol=0.02)
    assert np.abs(of(steered, "closed") - of(judged, "mean")).max() > 0.1


def test_root_only_does_not_depend_on_who_attacks(judged):
    accuracy = judged.accuracy[judged.names.index("root_only")]
    assert (accuracy == accuracy[:, :1]).all() and accuracy.min() > 0.5


def test_types_that_switch_are_judged_as_the_second():
    """Switched in round 0 they were never another; a round before the end almost always."""
    told = [parse_contestant("mean", 5)]

    def scores(at):
        return judge(told, CONFIG, tiny_dataset(side=6), range(1), switch=cycle(3, 1, at))

    never = judge(told, CONFIG, tiny_dataset(side=6), range(1))
    at_once, late = scores(0), scores(11)
    np.testing.assert_array_equal(np.roll(never.score[0, 0], -1), at_once.score[0, 0])
    assert late.types == ["none then ipm:scale=9@0.4", "ipm:scale=9@0.4 then bfl@0.4",
                          "bfl@0.4 then none"]  # fmt: skip
    assert late.accuracy[0, 0, 1] < never.accuracy[0, 0, 2] - 0.2, "eleven rounds of sign flips"


def test_decisions_dealt_at_random_keep_as_many_of_each():
    names = [parse_contestant(name, 5) for name in ("v1", "v1 / shuffled", "untrained")]
    got = judge(names, CONFIG, tiny_dataset(side=6), range(1)).kept[:, 0, 1]
    assert got[0, 0] - got[0, 1] > 0.3, "the defender tells them apart"
    assert abs(got[1, 0] - got[1, 1]) < 0.3 and abs(got[2, 0] - got[2, 1]) < 0.3


def test_the_same_worlds_give_the_same_numbers(judged):
    again = judge([parse_contestant("mean", 5)], CONFIG, tiny_dataset(side=6), range(2))
    np.testing.assert_array_equal(again.score[0], of(judged, "mean"))


def test_the_json_and_the_table_say_the_same(judged):
    tree = json.loads(json.dumps(judged.to_json()))
    header, rows = summary(judged)
    assert [row["contestant"] for row in tree["rows"]] == list(NAMES)
    assert tree["worlds"] == [0, 1] and tree["types"] == list(TYPES)
    mean = tree["rows"][2]
    assert mean["regret"] == pytest.approx(np.mean(judged.regret(2)))
    assert rows[2][:2] == ["mean", f"{mean['mean']:.3f}"] and len(header) == len(rows[2])
    assert rows[0][3] == "", "the perfect filter has no regret to itself"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("median / hot", "option 'hot': warm, shuffled, lr=NUMBER"),
        ("v1 / threshold=1", "threshold = 1: in"),
        ("median / threshold=0.9", "decide about clients"),
        ("median / trim=0.3", "trim is for those that decide about clients"),
        ("v1 / trim=0.5", "trim = 0.5: from 0 to 0.45"),
        ("median / lr=0", "above 0"),
        ("constant:clip=3", "clip = 3"),
        ("median / shuffled", "decide about clients"),
        ("median / fine_tune:lr=-1", "lr"),
    ],
)
def test_a_contestant_that_is_none_is_told(text, error):
    with pytest.raises(ConfigError, match=error):
        parse_contestant(text, 5)


def test_a_rule_that_is_none_lists_the_rules():
    with pytest.raises(UnknownNameError, match="did you mean 'median'"):
        parse_contestant("medium", 5)


def test_options_are_read():
    got = parse_contestant("clipping:max_norm=2+median / warm / lr=0.5 / fine_tune", 10)
    assert (got.rule, got.warm, got.server_lr) == ("clipping:max_norm=2+median", True, 0.5)
    assert got.post == "fine_tune"
    strict = parse_contestant("v1 / threshold=0.9 / fine_tune", 10)
    assert strict.player.policy.threshold == 0.9 and strict.post == "fine_tune"
    trims = [parse_contestant(f"v1 / trim={trim}", 10) for trim in (0.1, 0.3)]
    assert len({each.played for each in (*trims, strict)}) == 3, "they don't share a run"


def test_knobs_stand_for_what_they_say():
    from metasg_jax.aggregators import ClientTrust

    rule = ClientTrust()
    assert float(rule.clip_multiple(knob_of_clip(1.5))) == pytest.approx(1.5, rel=1e-5)
    assert float(rule.trim_share(knob_of_trim(0.2))) == pytest.approx(0.2, rel=1e-5)
