"""An attacker that learns against one defence: its run, its gate, and what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from metasg_jax import attacker, checkpoint, cli, program
from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig
from metasg_jax.errors import ConfigError
from metasg_jax.game import make_game
from metasg_jax.learning.state import attacker_player, init_state
from metasg_jax.testing import tiny_dataset

DATASET = tiny_dataset(side=6)
GAME = GameConfig(hidden=(6,), level=0.5, num_root=12, num_validation=30, target=1)
FL = FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=3, local_lr=0.5)
META = attacker.LEARNER.replace(hidden=(4,), group_size=2, attacker_lr=0.5)
QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def a_small_zoo(monkeypatch):
    monkeypatch.setattr(
        attacker, "ATTACKS", ("none", "ipm:scale=2@0.1", "bfl@0.1", "ipm@0.1+bfl@0.1")
    )


def learn(opponent, folder, steps=2, resume=False, worlds=2, tries=0):
    config = dataclasses.replace(opponent.config, steps=steps, chunk=1)
    opponent = dataclasses.replace(opponent, config=config)
    return attacker.attack_program(opponent, DATASET, folder, resume, worlds, QUIET, tries)


def state_of(folder):
    config, checkpoints = program.load_run(folder)
    return program.load_state(config, checkpoints, DATASET)


def test_against_a_rule_it_learns_is_judged_and_goes_on(tmp_path):
    opponent = attacker.fixed_opponent("krum", "none", "rl:max_steps=2@0.25", GAME, FL, META)
    result = learn(opponent, tmp_path, steps=1)
    assert result["strongest fixed attack"] == "ipm:scale=2@0.25"
    assert result["passed"] == (result["score"] <= result["its score"])
    assert json.loads((tmp_path / "attack.json").read_text()) == result
    text = (tmp_path / "attack.md").read_text()
    assert "rl:max_steps=2@0.25 against krum / none" in text and "nan" not in text
    first = state_of(tmp_path)
    learn(opponent, tmp_path, steps=2, resume=True)
    second = state_of(tmp_path)
    assert second.num_steps == 2
    pairs = zip(jax.tree.leaves(first.phi), jax.tree.leaves(second.phi), strict=True)
    assert any(not np.array_equal(a, b) for a, b in pairs)


def test_against_a_run_the_defender_stands_still(tmp_path):
    """Its policy and normaliser are the run's, before and after."""
    config = RunConfig(
        dataclasses.replace(GAME, types=("none", "ipm@0.25")), FL,
        MetaConfig(hidden=(5,), adapt_steps=0, group_size=2), steps=1,
    )  # fmt: skip
    program.pretrain_program(config, DATASET, tmp_path / "defender", False, QUIET)
    opponent = attacker.learned_opponent(
        tmp_path / "defender", "brl:max_steps=2@0.25", META, lambda name: DATASET
    )
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
    """Unjudged, and without a step: its mode is that action, whatever it sees."""
    wanted = jnp.array([0.5, -1.0, 0.0])
    monkeypatch.setattr(attacker, "best_constant", lambda *a: (wanted, jnp.float32(0.3)))
    opponent = attacker.fixed_opponent("krum", "none", "rl:max_steps=2@0.25", GAME, FL, META)
    found = learn(opponent, tmp_path, steps=1, worlds=0, tries=4)
    assert found == {
        "against": "krum", "attack": "rl:max_steps=2@0.25", "worlds": 0, "passed": None
    }  # fmt: skip
    game = make_game(opponent.config.game, FL, DATASET)
    state = attacker.begin_at_best(
        init_state(jax.random.key(0), game, META), game, opponent.config, 4, QUIET
    )
    player = attacker_player(state, game, META, 0, greedy=True)
    obs = jnp.ones((game.attacker_observation_size,))
    mode = player.policy.mode(player.params, obs)
    np.testing.assert_allclose(mode, [0.5, -0.95, 0.0], atol=1e-6)
    sampled, _ = player.policy.sample(jax.random.key(0), player.params, obs)
    assert np.abs(sampled - mode).min() > 1e-3


def test_rivals_have_the_same_side_and_share():
    assert attacker.rivals("rl@0.25", 8) == ("ipm:scale=2@0.25",)
    assert attacker.rivals("brl@0.5", 8) == ("bfl@0.5",)
    assert attacker.rivals("rl@0.25+brl@0.25", 8) == ()


def test_an_attack_without_knobs_is_refused():
    with pytest.raises(ConfigError, match=r"ipm@0\.25.*rl@0\.2 or brl@0\.05"):
        attacker.fixed_opponent("krum", "none", "ipm@0.25", GAME, FL, META)


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
