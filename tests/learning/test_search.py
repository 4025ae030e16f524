"""Constant actions tried before an attacker learns: the best of the grid is found."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.game.rollout import Player, init_normalizer
from metasg_jax.learning.search import best_constant
from metasg_jax.policies import Fixed
from metasg_jax.testing import leader_follower
from metasg_jax.testing.quadrature import stretch

GAME = leader_follower()
LEADER = Player(jnp.array([0.3, -0.6]), init_normalizer(GAME.observation_spec), Fixed(2), True)


@pytest.mark.parametrize("xi", [0, 1])
def test_the_best_point_of_the_grid_is_found_for_each_type(xi):
    """Payoffs are known, and 300 draws of 25 points leave none out."""
    grid = np.float32(list(itertools.product((-1, -0.5, 0, 0.5, 1), repeat=2)))
    u = stretch(LEADER.params)
    earned = [GAME.prior[xi].payoff(u, stretch(jnp.asarray(a)), GAME.dial)[1] for a in grid]
    action, told = best_constant(jax.random.key(0), GAME, jnp.int32(xi), LEADER, 300)
    np.testing.assert_array_equal(action, grid[np.argmax(earned)])
    np.testing.assert_allclose(told, max(earned), rtol=1e-5)


def test_a_single_try_is_the_middle():
    action, _ = best_constant(jax.random.key(0), GAME, jnp.int32(0), LEADER, 1)
    np.testing.assert_array_equal(action, [0.0, 0.0])
