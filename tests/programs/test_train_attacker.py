"""An attacker that learns against one defence: its run, its gate, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from metasg_jax import checkpoint, cli
from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig
from metasg_jax.errors import CheckpointError, ConfigError
from metasg_jax.evaluation import attack_suite
from metasg_jax.evaluation.attack_suite import is_comparable
from metasg_jax.files import read_json
from metasg_jax.game import make_game
from metasg_jax.learning.state import attacker_player, defender_player, init_state
from metasg_jax.post_defenses import FineTune
from metasg_jax.programs import train_attacker
from metasg_jax.programs.load import load_run, load_state
from metasg_jax.programs.pretrain import pretrain_program
from metasg_jax.testing import tiny_dataset

DATASET = tiny_dataset(side=6)
GAME = GameConfig(hidden=(6,), level=0.5, num_root=12, num_validation=30, target=1)
FL = FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=3, local_lr=0.5)
META = train_attacker.LEARNER.replace(hidden=(4,), group_size=2, attacker_lr=0.5)
QUIET = Console(quiet=True)


ZOO = ("none", "ipm:scale=2@0.1", "bfl@0.1", "ipm@0.1+bfl@0.1", "tailored@0.1")


@pytest.fixture(autouse=True)
def a_small_zoo(monkeypatch):
    monkeypatch.setattr(train_attacker, "FIXED", ZOO)


def opponent_of(defence, attack):
    return train_attacker.opponent_of(defence, attack, GAME, FL, META, lambda name: DATASET)


def learn(opponent, folder, steps=2, resume=False, worlds=2, tries=0):
    config = dataclasses.replace(opponent.config, steps=steps, chunk=1)
    opponent = dataclasses.replace(opponent, config=config)
    return train_attacker.attack_program(opponent, DATASET, folder, resume, worlds, QUIET, tries)


def state_of(folder):
    config, checkpoints = load_run(folder)
    return load_state(config, checkpoints, DATASET)


@pytest.mark.slow
def test_against_a_rule_it_learns_is_judged_and_goes_on(tmp_path):
    opponent = opponent_of("krum", "rl:max_steps=2@0.25")
    result = learn(opponent, tmp_path, steps=1)
    assert result["strongest fixed attack"] == "ipm:scale=2@0.25"
    assert result["passed"] == (result["score"] <= result["its score"])
    assert read_json(tmp_path / "attack.json") == result
    text = (tmp_path / "attack.md").read_text()
    assert "rl:max_steps=2@0.25 against krum" in text and "nan" not in text
    first = state_of(tmp_path)
    learn(opponent, tmp_path, steps=2, resume=True)
    second = state_of(tmp_path)
    assert second.num_steps == 2
    pairs = zip(jax.tree.leaves(first.phi), jax.tree.leaves(second.phi), strict=True)
    assert any(not np.array_equal(a, b) for a, b in pairs)


@pytest.mark.slow
def test_against_a_run_the_defender_stands_still(tmp_path):
    """Its policy and normaliser are the run's, before and after."""
    config = RunConfig(
        dataclasses.replace(GAME, types=("none", "ipm@0.25")), FL,
        MetaConfig(hidden=(5,), adapt_steps=0, group_size=2), steps=1,
    )  # fmt: skip
    pretrain_program(config, DATASET, tmp_path / "defender", False, QUIET)
    opponent = opponent_of(str(tmp_path / "defender"), "brl:max_steps=2@0.25")
    assert opponent.config.meta.hidden == (5,)
    learn(opponent, tmp_path / "attacker")
    defender, after = state_of(tmp_path / "defender"), state_of(tmp_path / "attacker")
    before = (defender.theta, defender.normalizer)
    for a, b in zip(
        jax.tree.leaves(before), jax.tree.leaves((after.theta, after.normalizer)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert checkpoint.load_config(tmp_path / "attacker" / "checkpoints").game.types == (
        "brl:max_steps=2@0.25",
    )


def test_it_begins_at_the_best_constant_action_that_it_tried(tmp_path, monkeypatch):
    """Its mode is that action, whatever it sees; a step then moves it by the step's size."""
    wanted, asked = jnp.array([0.5, -1.0, 0.0]), []

    def found(key, game, index, defender, num_tries):
        asked.append(num_tries)
        return wanted, jnp.float32(0.3)

    monkeypatch.setattr(train_attacker, "best_constant", found)
    opponent = opponent_of("krum", "rl:max_steps=2@0.25")
    meta = opponent.config.meta.replace(attacker_lr=1e-6)
    opponent = dataclasses.replace(opponent, config=dataclasses.replace(opponent.config, meta=meta))
    told = learn(opponent, tmp_path, steps=1, worlds=0, tries=4)
    assert told == {
        "against": "krum", "attack": "rl:max_steps=2@0.25", "seed": 0, "tries": 4, "steps": 1,
        "worlds": 0, "passed": None,
    }  # fmt: skip
    assert asked == [4]
    game = make_game(opponent.config.game, FL, DATASET)
    player = attacker_player(state_of(tmp_path), game, meta, 0, greedy=True)
    obs = jnp.ones((game.attacker_observation_size,))
    mode = player.policy.mode(player.params, obs)
    np.testing.assert_allclose(mode, [0.5, -0.95, 0.0], atol=1e-3)
    with pytest.raises(CheckpointError, match="tries: 4, not 5"):
        learn(opponent, tmp_path, steps=2, worlds=0, tries=5, resume=True)
    learn(opponent, tmp_path, steps=2, worlds=0, tries=4, resume=True)
    assert asked == [4], "what goes on begins nowhere"


def test_knobs_stay_where_a_defences_name_puts_them():
    text = "nnm+clipped_trimmed_mean:clip=0.3,trim=-0.4 / prune:rate=0.2+fine_tune"
    opponent = opponent_of(text, "rl@0.25")
    game = make_game(opponent.config.game, FL, DATASET)
    state = opponent.lead(init_state(jax.random.key(0), game, META), game)
    player = defender_player(state, game, META, True)
    mode = player.policy.mode(player.params, jnp.ones((game.observation_spec,)))
    assert game.action_names == ("clip", "trim", "rate", "tune")
    np.testing.assert_allclose(mode, [0.3, -0.4, 0.2, FineTune().tune], atol=1e-6)


def test_rivals_have_the_same_side_and_share():
    assert attack_suite.comparable_attacks("rl@0.25", 8, ZOO) == ("ipm:scale=2@0.25",)
    assert attack_suite.comparable_attacks("brl@0.5", 8, ZOO) == ("bfl@0.5",)
    assert attack_suite.comparable_attacks("rl@0.25+brl@0.25", 8, ZOO) == ()


def test_rivals_are_the_fixed_attacks_with_the_same_clients():
    known = ("ipm:scale=2@0.25", "ipm:scale=2,knowledge=own@0.25", "sign_flip@0.25")
    assert [is_comparable(each, "rl@0.25", 8, own=True) for each in known] == [False, True, True]
    zoo = ("ipm@0.5", "ipm:scale=2@0.25", "bfl@0.25", "tailored@0.25", "rl@0.25", "none")
    assert [each for each in zoo if is_comparable(each, "rl@0.25", 8)] == ["ipm:scale=2@0.25"]
    assert [each for each in zoo if is_comparable(each, "brl@0.25", 8)] == ["bfl@0.25"]


def test_an_attack_without_knobs_is_refused():
    with pytest.raises(ConfigError, match=r"ipm@0\.25.*rl@0\.2 or brl@0\.05"):
        opponent_of("krum", "ipm@0.25")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--against=krumm"], "krumm"),
        (["--attack=ipm@0.2"], "no knobs"),
        (["--worlds=1"], "worlds = 1"),
        (["--tries=-1"], "tries = -1"),
        (["--resume"], "--out"),
    ],
)
def test_bad_input_is_named(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["attack", *argv]) == 2
    assert message in capsys.readouterr().err
