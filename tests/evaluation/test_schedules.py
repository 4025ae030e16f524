"""Schedules are played as they are, and everything that has one key is paired."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.config import MetaConfig, RunConfig
from metasg_jax.evaluation.controls import all_attackers
from metasg_jax.evaluation.episodes import score_actions
from metasg_jax.evaluation.schedules import (
    constant,
    phase_features,
    play_policy,
    play_schedules,
    shuffled,
    swapped,
    two_phase,
)
from metasg_jax.game.rollout import Player, init_normalizer
from metasg_jax.learning import init_state
from metasg_jax.learning.state import defender_player
from metasg_jax.policies import Fixed
from metasg_jax.testing import tiny_game

GAME = tiny_game()
H, K = GAME.horizon, len(GAME.prior)
META = MetaConfig(hidden=(4,), init_std=0.9)
STATE = init_state(jax.random.key(0), GAME, META)
ATTACKERS = all_attackers(STATE, GAME, RunConfig(meta=META))
KEY = jax.random.key(3)
SOME = np.array([0.3, -0.6, 0.2], np.float32)


@pytest.mark.slow
def test_a_constant_schedule_a_constant_policy_and_a_grid_point_are_one():
    by_schedule = play_schedules(KEY, GAME, constant(np.tile(SOME, (K, 1)), H)[:, None], ATTACKERS)
    player = Player(jnp.asarray(SOME), init_normalizer(GAME.observation_spec), Fixed(3), True)
    recorded = play_policy(KEY, GAME, player, ATTACKERS)
    grid = score_actions(KEY, GAME, SOME[None], SOME[-1:], ATTACKERS, "test")
    np.testing.assert_allclose(by_schedule.score[:, 0], recorded.metrics.score, atol=1e-6)
    np.testing.assert_allclose(by_schedule.score[:, 0], grid[:, 0, 0], atol=1e-6)
    np.testing.assert_allclose(recorded.action, np.broadcast_to(SOME, (K, H, 3)))


def test_a_policys_own_actions_as_a_schedule_give_what_the_policy_gave():
    recorded = play_policy(KEY, GAME, defender_player(STATE, GAME, META, True), ATTACKERS)
    assert recorded.observation.shape == (K, H, GAME.observation_spec)
    again = play_schedules(KEY, GAME, recorded.action[:, None], ATTACKERS)
    np.testing.assert_allclose(again.score[:, 0], recorded.metrics.score, atol=1e-6)


def test_swapped_and_shuffled_by_hand():
    actions = np.arange(2 * 3 * 1.0).reshape(2, 3, 1)
    np.testing.assert_array_equal(swapped(actions), actions[[1, 0]])
    mixed = shuffled(np.random.default_rng(0), np.arange(40.0).reshape(2, 20, 1))
    np.testing.assert_array_equal(np.sort(mixed, axis=1)[..., 0], np.arange(40).reshape(2, 20))
    assert not np.array_equal(mixed[0] + 20, mixed[1])


def test_two_phases_by_hand():
    got = two_phase(np.array([9.0]), np.array([[1.0], [2.0]]), 2, 4)
    np.testing.assert_array_equal(got[..., 0], [[9, 9, 1, 1], [9, 9, 2, 2]])


def test_phase_features_by_hand():
    observations = np.array([[[1.0, 0.0], [3.0, 4.0], [100.0, 100.0]]])
    np.testing.assert_array_equal(phase_features(observations, 2), [[2, 2, 3, 4]])


@pytest.mark.parametrize("j", [1, 3])
def test_schedules_of_a_type_do_not_meet(j):
    """Each is as if it were played alone."""
    rng = np.random.default_rng(1)
    schedules = rng.uniform(-1, 1, (K, j, H, 3)).astype(np.float32)
    together = play_schedules(KEY, GAME, schedules, ATTACKERS)
    alone = play_schedules(KEY, GAME, schedules[:, :1], ATTACKERS)
    np.testing.assert_allclose(together.score[:, 0], alone.score[:, 0], atol=1e-6)
