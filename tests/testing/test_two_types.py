"""The game of two hidden types: its known answers, found again by listing every batch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player, init_normalizer
from metasg_jax.policies import Categorical
from metasg_jax.testing import (
    best_response,
    exact_meta_values,
    perfect_bayesian_value,
    two_types,
    two_types_answer,
)
from tests.testing.players import sigmoid

REWARDS = [[[0.5, -0.5], [0.5, -0.5]], [[-0.3, 0.7], [-0.7, 0.3]]]  # type, state, action
Q = (0.65, 0.35)


def after(k, s, a):
    return 1 - s if a == k else s


def memoryless(theta, k):
    """J_D of logits f64[..., 2] against type k's strong attack, H = 2."""
    p = sigmoid(theta)
    law, total = [0.5, 0.5], 0.0
    for _ in range(2):
        following = [0.0, 0.0]
        for s, a in itertools.product(range(2), repeat=2):
            mass = law[s] * (p[..., s] if a else 1 - p[..., s])
            total = total + mass * REWARDS[k][s][a]
            following[after(k, s, a)] = following[after(k, s, a)] + mass
        law = following
    return total


def adapted(theta, eta, batch):
    """V_s of two_types in float64, every ordered batch listed."""
    theta = np.asarray(theta, np.float64)
    p, total = sigmoid(theta), 0.0
    for k in range(2):
        chances, steps = [], []
        for s, a, b in itertools.product(range(2), repeat=3):
            second = after(k, s, a)
            r = REWARDS[k][s][a], REWARDS[k][second][b]
            chance, step = 0.5, np.zeros(2)
            for state, action, to_go in ((s, a, r[0] + r[1]), (second, b, r[1])):
                chance *= p[state] if action else 1 - p[state]
                step[state] += (action - p[state]) * to_go
            chances.append(chance)
            steps.append(step)
        index = np.array(list(itertools.product(range(8), repeat=batch)))
        weights = np.array(chances)[index].prod(axis=1)
        moved = theta + eta * np.array(steps)[index].mean(axis=1)
        total += Q[k] * (weights @ memoryless(moved, k))
    return total


def test_meta_equilibrium_beats_the_bayesian_stackelberg_equilibrium():
    answer = two_types_answer()
    grid = np.linspace(-12, 12, 41)
    thetas = np.array(list(itertools.product(grid, repeat=2)))
    fixed_policies = sum(q * memoryless(thetas, k) for k, q in enumerate(Q))
    np.testing.assert_allclose(fixed_policies.max(), answer.bse, atol=1e-4)
    # nothing in between is better than the corner that plays one arm throughout
    assert (fixed_policies <= answer.bse + 1e-6).all()
    constant = [sum(q * memoryless(np.full(2, x), k) for k, q in enumerate(Q)) for x in (-40, 40)]
    np.testing.assert_allclose(max(constant), answer.fixed, atol=1e-9)
    values = [adapted(t, answer.adapt_lr, 2) for t in thetas]
    assert max(values) <= answer.meta
    start = thetas[int(np.argmax(values))]
    found = minimize(lambda t: -adapted(t, answer.adapt_lr, 2), start, tol=1e-10)
    np.testing.assert_allclose(-found.fun, answer.meta, atol=1e-6)
    np.testing.assert_allclose(found.x, answer.theta, atol=1e-4)
    np.testing.assert_allclose(adapted([0, 0], answer.adapt_lr, 2), answer.meta_uniform, atol=1e-6)
    assert answer.margin > 0.3  # rewards against best responses are in [-0.7, 0.7]


def tabular(kernel):
    params = {"Dense_0": {"kernel": jnp.reshape(jnp.asarray(kernel, jnp.float32), (2, 1))}}
    return Player(params, init_normalizer(2), Categorical(2))


def test_two_types_through_the_library():
    answer, game = two_types_answer(), two_types()
    config = MetaConfig(
        group_size=1, num_groups=2, baseline="none", estimator="return_to_go",
        adapt_lr=answer.adapt_lr, discount=1.0, hidden=(), normalize=False,
    )  # fmt: skip
    defender, strong = tabular(answer.theta), tabular([40.0, 40.0])

    @jax.jit
    def values(phi):
        player = strong.replace(params=phi)
        each = [exact_meta_values(game, game.prior[i], defender, player, config) for i in range(2)]
        return sum(q * l_d for q, (l_d, _) in zip(Q, each, strict=True)), [l_a for _, l_a in each]

    @jax.jit
    def objective(theta):
        player = defender.replace(params=theta)
        each = [exact_meta_values(game, game.prior[i], player, strong, config)[0] for i in range(2)]
        return sum(q * l_d for q, l_d in zip(Q, each, strict=True))

    meta, attackers = values(strong.params)
    np.testing.assert_allclose(meta, answer.meta, atol=2e-5)
    gradient = jax.grad(objective)(defender.params)["Dense_0"]["kernel"]
    np.testing.assert_allclose(gradient, 0.0, atol=1e-4)
    # with the adaptation in full, too, the strong attack is the best response
    for phi in ([-3.0, -3.0], [0.0, 0.0], [3.0, 0.0], [0.0, 3.0], [3.0, 3.0]):
        for weaker, best in zip(values(tabular(phi).params)[1], attackers, strict=True):
            assert weaker < best - 1e-3
    for i, theta in itertools.product(range(2), ([0.0, 0.0], [-9.0, 9.0], [9.0, 9.0])):
        response = best_response(game, game.prior[i], tabular(theta), strong, 1.0)
        assert (response.params["Dense_0"]["kernel"] > 20).all()


def test_two_types_with_memory():
    answer, game = two_types_answer(), two_types()
    attacks = np.tile([0.0, 1.0], (2, 2, 1))
    np.testing.assert_allclose(
        perfect_bayesian_value(game, attacks), answer.perfect_bayesian, atol=1e-6
    )
    known = sum(
        q * perfect_bayesian_value(two_types(probabilities=one), attacks)
        for q, one in zip(Q, ((1.0, 0.0), (0.0, 1.0)), strict=True)
    )
    np.testing.assert_allclose(known, answer.known_type, atol=1e-6)
    assert answer.bse < answer.meta < answer.perfect_bayesian < answer.known_type
