"""A type that changes in mid-run is the first one before, and the second one afterwards."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.config import MetaConfig, RunConfig
from metasg_jax.evaluation.controls import all_attackers
from metasg_jax.evaluation.episodes import score_actions
from metasg_jax.evaluation.recorded import play_policy
from metasg_jax.evaluation.switching import Switch, cycle
from metasg_jax.game.rollout import Player, init_normalizer
from metasg_jax.learning import init_state
from metasg_jax.policies import Fixed
from metasg_jax.testing import tiny_game
from tests.worlds import WITH_FUSIONS

GAME = tiny_game()
H, K = GAME.horizon, len(GAME.prior)
META = MetaConfig(hidden=(4,))
ATTACKERS = all_attackers(init_state(jax.random.key(0), GAME, META), GAME, RunConfig(meta=META))
KEY = jax.random.key(3)
OPEN = np.array([1.0, -1.0, 1.0], np.float32)
PLAYER = Player(jnp.asarray(OPEN), init_normalizer(GAME.observation_spec), Fixed(3), True)


@functools.partial(jax.jit, compiler_options=WITH_FUSIONS)
def played(switch):
    return play_policy(KEY, GAME, PLAYER, ATTACKERS, switch=switch)


@pytest.mark.slow
def test_a_switch_after_the_end_changes_the_judge_only():
    plain, late = played(None), played(cycle(K, 1, H))
    np.testing.assert_array_equal(plain.observation, late.observation)
    np.testing.assert_array_equal(plain.metrics.accuracy, late.metrics.accuracy)


@pytest.mark.slow
def test_a_switch_at_once_is_the_second_type():
    plain, early = played(None), played(cycle(K, 1, 0))
    np.testing.assert_allclose(early.metrics.score, np.roll(plain.metrics.score, -1), atol=1e-6)


def test_before_the_switch_nothing_is_different():
    at = H // 2
    plain, switched = played(None), played(cycle(K, 1, at))
    np.testing.assert_array_equal(plain.observation[:, :at], switched.observation[:, :at])
    others = [
        i
        for i in range(K)
        if not np.allclose(plain.observation[i, at], switched.observation[i, at])
    ]
    assert others, "no type was seen to change"


@pytest.mark.parametrize(
    "switch", [None, cycle(K, 1, 1), Switch(jnp.zeros((K,), jnp.int32), jnp.int32(2))]
)
@pytest.mark.slow
def test_a_grid_point_is_the_policy_that_always_plays_it(switch):
    recorded = play_policy(KEY, GAME, PLAYER, ATTACKERS, switch=switch)
    grid = score_actions(
        jax.random.clone(KEY), GAME, OPEN[None], OPEN[-1:], ATTACKERS, "test", switch
    )
    np.testing.assert_allclose(recorded.metrics.score, grid[:, 0, 0], atol=1e-6)
    np.testing.assert_allclose(recorded.action, np.broadcast_to(OPEN, (K, H, 3)))
