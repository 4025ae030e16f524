"""Policy-gradient estimates against exact gradients and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player, init_normalizer, rollout_groups
from metasg_jax.learning.estimators import (
    advantages,
    discounted_to_go,
    policy_gradient,
    step_weights,
)
from metasg_jax.policies import Gaussian
from metasg_jax.testing import probe_game

POLICY = Gaussian(1, (4,), 0.5)
GAME = probe_game((0.5,), (0.0,), (False,), horizon=3)
CONFIG = MetaConfig(group_size=4, discount=0.8)


def exact_gradient(params):
    """Gradient of J = sum_t 0.8^(t-1) E r_t, by Gauss-Hermite quadrature over a round's noise."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = jnp.asarray(weights / weights.sum(), jnp.float32)

    def objective(params):
        obs = jnp.asarray([0.5])
        mean, log_std = POLICY.moments(params, obs)
        action = jnp.tanh(mean[0] + jnp.exp(log_std[0]) * jnp.asarray(nodes, jnp.float32))
        reward = weights @ -((action - 0.5) ** 2)
        return reward * (1 + 0.8 + 0.64)

    return jax.grad(objective)(params)


@pytest.mark.parametrize("estimator", ["return", "return_to_go"])
@pytest.mark.parametrize("baseline", ["none", "group"])
def test_unbiased_for_the_discounted_objective(estimator, baseline):
    params = POLICY.init(jax.random.key(0), 1)
    player = Player(params, init_normalizer(1), POLICY)
    config = CONFIG.replace(estimator=estimator, baseline=baseline)

    @jax.jit
    def estimate(key):
        played = rollout_groups(key, GAME, GAME.prior[0], player, player, 1, 4)
        return policy_gradient(POLICY, params, played.defender, config)

    samples = jax.vmap(estimate)(jax.random.split(jax.random.key(1), 20_000))
    for got, want in zip(
        jax.tree.leaves(samples), jax.tree.leaves(exact_gradient(params)), strict=True
    ):
        error = got.mean(axis=0) - want
        sigma = got.std(axis=0) / jnp.sqrt(got.shape[0])
        assert (jnp.abs(error) < 4.5 * sigma + 1e-6).all()


def test_the_group_baseline_reduces_the_variance():
    params = POLICY.init(jax.random.key(0), 1)
    player = Player(params, init_normalizer(1), POLICY)

    def variance(baseline):
        config = CONFIG.replace(baseline=baseline)

        def estimate(key):
            played = rollout_groups(key, GAME, GAME.prior[0], player, player, 1, 4)
            return policy_gradient(POLICY, params, played.defender, config)["log_std"]

        return jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(1), 4000)).var()

    assert variance("group") < 0.9 * variance("none")


def test_discounted_to_go_by_hand():
    out = discounted_to_go(jnp.asarray([1.0, 2.0, 4.0]), 0.5)
    assert out.tolist() == [3.0, 4.0, 4.0]


def test_future_gain_is_the_discounted_average_minus_the_previous_reward():
    rewards = jnp.asarray([0.3, 0.5, 0.1, 0.9])
    got = step_weights(rewards, 0.9, "future_gain")
    padded = np.append(np.asarray(rewards), [0.9] * 400)
    for t in range(1, 4):
        average = 0.1 * sum(0.9**k * padded[t + k] for k in range(400))
        # beyond the horizon the last reward goes on: no gain, no loss
        assert np.isclose(got[t], average - rewards[t - 1], atol=1e-4)


def test_the_first_action_is_credited_with_what_it_earns():
    """Nothing was paid before it; an episode of one round has a gradient."""
    assert np.isclose(step_weights(jnp.array([0.7]), 0.9, "future_gain")[0], 0.7)
    steady, better = (
        step_weights(jnp.array([first, *[0.2] * 60]), 0.9, "future_gain")[0] for first in (0.2, 1.2)
    )
    assert np.isclose(better - steady, 1 - 0.9)


def test_group_advantages_sum_to_zero_within_a_group():
    rewards = jax.random.normal(jax.random.key(0), (2, 4, 5))
    out = advantages(rewards, 0.9, CONFIG)
    assert jnp.allclose(out.sum(axis=1), 0.0, atol=1e-5)
    assert jnp.abs(out).max() > 0.1
