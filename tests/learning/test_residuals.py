"""Residuals: unbiased against exact gradients, errors calibrated, 0 where the answer is known."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.config import MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.learning import init_state
from metasg_jax.learning.estimators import policy_gradient
from metasg_jax.learning.residuals import MIN_BATCHES, check_residuals, estimate_norm, residuals
from metasg_jax.learning.sampled_gradients import Draws, draws_of, sample_gradients, unbiased
from metasg_jax.learning.state import attacker_player, defender_player
from metasg_jax.testing import (
    best_response,
    exact_meta_values,
    exact_values,
    leader_follower,
    leader_follower_answer,
    matrix_game,
    two_types,
)
from metasg_jax.testing.quadrature import constant_mean

FINITE = MetaConfig(group_size=1, baseline="none", normalize=False, hidden=(), adapt_lr=2.0)
CONTINUOUS = MetaConfig(
    group_size=16, baseline="leave_one_out", normalize=False, hidden=(), learn_std=False,
    init_std=0.3, adapt_steps=0,
)  # fmt: skip


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0], np.float64)


def players(game, config, theta=0.3, phi=0.8):
    """All logits of a player alike."""
    state = init_state(jax.random.key(0), game, config)

    def at(player, value):
        return player.replace(params=jax.tree.map(lambda a: value + 0.0 * a, player.params))

    defender = at(defender_player(state, game, config), theta)
    return defender, at(attacker_player(state, game, config, 0), phi)


def exact_gradient(game, k, defender, attacker, config, side):
    """Gradient of L_D in theta (side 0), of L_A in phi (1)."""

    def value(params):
        pair = [defender, attacker]
        pair[side] = pair[side].replace(params=params)
        return exact_meta_values(game, game.prior[k], *pair, config)[side]

    return flat(jax.grad(value)((defender, attacker)[side].params))


# estimate_norm alone, on vectors whose mean is known


def normal_draws(repeats, batches, mean, scale):
    rng = np.random.default_rng(0)
    return mean + scale * rng.standard_normal((repeats, batches, len(mean)))


def test_the_squared_norm_is_the_mean_over_pairs_of_different_draws():
    draws = np.random.default_rng(1).standard_normal((6, 3))
    pairs = [draws[i] @ draws[j] for i in range(6) for j in range(6) if i != j]
    found = estimate_norm(draws_of(draws))
    assert found.squared == pytest.approx(np.mean(pairs))
    assert found.plain == pytest.approx(np.linalg.norm(draws.mean(0)))
    assert found.scaled(3.0).squared == pytest.approx(estimate_norm(draws_of(3 * draws)).squared)
    assert found.scaled(3.0).bound == pytest.approx(estimate_norm(draws_of(3 * draws)).bound)
    with pytest.raises(ValueError, match="3 draws: at least 4"):
        estimate_norm(draws_of(draws[:3]))


@pytest.mark.parametrize("size", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("dimensions", [1, 8])
def test_errors_are_calibrated(size, dimensions):
    """Mean, standard error and 95 % bound over 1000 repetitions, with and without a gradient."""
    scale = np.linspace(0.5, 1.5, dimensions)
    mean = np.full(dimensions, size / np.sqrt(dimensions))
    found = [estimate_norm(draws_of(d)) for d in normal_draws(1000, 24, mean, scale)]
    squared = np.array([f.squared for f in found])
    spread = squared.std(ddof=1)
    assert abs(squared.mean() - size**2) < 4 * spread / np.sqrt(1000)
    reported = np.sqrt(np.mean([f.squared_error**2 for f in found]))
    # never too small; too large near 0, where it meets its floor, the error of pairs alone
    assert 0.9 < reported / spread < (1.1 if size == 1 else 1.55)
    assert np.mean([f.bound >= size for f in found]) >= 0.94
    plain = np.array([f.plain for f in found])
    assert (plain**2).mean() > size**2 + 0.8 * (scale**2).sum() / 24


def test_what_is_too_noisy_is_not_resolved():
    noise = [estimate_norm(draws_of(d)) for d in normal_draws(1000, 24, np.zeros(8), np.ones(8))]
    assert np.mean([f.resolved for f in noise]) < 0.04
    clear = [estimate_norm(draws_of(d)) for d in normal_draws(200, 24, np.ones(8), np.ones(8))]
    assert np.mean([f.resolved for f in clear]) > 0.99
    assert np.mean([abs(f.norm - np.sqrt(8)) < 1.96 * f.error for f in clear]) > 0.9


def test_the_budget_asked_for_resolves_it():
    size = 0.25
    draws = normal_draws(1, 24, np.full(8, size / np.sqrt(8)), np.ones(8))[0]
    first = estimate_norm(draws_of(draws))
    batches = round(first.batches_needed(size))
    assert 100 < batches < 2000
    again = normal_draws(20, batches, np.full(8, size / np.sqrt(8)), np.ones(8))
    assert np.mean([estimate_norm(draws_of(d)).resolved for d in again]) > 0.8


def test_any_gain_may_be_shifted_and_pairs_stay_independent():
    """A constant added to all gains changes nothing; and the mean over many is the squared norm."""
    rng = np.random.default_rng(0)
    mean, scores = np.array([0.3, 0.0]), rng.standard_normal((20_000, 6, 1, 2))
    gains = 2.0 + scores.sum(axis=(-1)) + rng.standard_normal((20_000, 6, 1))
    # E gain score = (1, 1)
    gradients = mean - 1.0 + np.einsum("rbm,rbmd->rbd", gains, scores)
    found = [estimate_norm(Draws(*arrays)) for arrays in zip(gradients, scores, gains, strict=True)]
    squared = np.array([f.squared for f in found])
    assert abs(squared.mean() - 0.09) < 4 * squared.std() / np.sqrt(20_000)
    raw = np.array([estimate_norm(draws_of(g)).squared for g in gradients])
    assert squared.std() < 0.8 * raw.std()
    shifted = gradients[0] + 5.0 * scores[0, :, 0]
    again = estimate_norm(Draws(shifted, scores[0], gains[0] + 5.0))
    assert again.squared == pytest.approx(found[0].squared)
    assert again.plain == pytest.approx(found[0].plain)


# the games


@pytest.mark.parametrize(
    ("game", "settings"),
    [
        pytest.param(matrix_game(), {}, marks=pytest.mark.slow),
        pytest.param(
            matrix_game(),
            dict(adapt_steps=2, group_size=2, baseline="batch"),
            marks=pytest.mark.slow,
        ),
        (two_types(), dict(num_groups=2)),
    ],
)
def test_residuals_agree_with_exact_gradients(game, settings):
    config = FINITE.replace(**settings)
    pair = players(game, config)
    k_types, batches = len(game.prior), 2048
    drawn = [
        sample_gradients(
            jax.random.fold_in(jax.random.key(5), k),
            game,
            jnp.int32(k),
            *pair,
            0,
            config.replace(rollouts_at_once=1 << 20),
            batches,
        )
        for k in range(k_types)
    ]
    exact_d = np.stack([exact_gradient(game, k, *pair, config, 0) for k in range(k_types)])
    exact_a = np.stack([exact_gradient(game, k, *pair, config, 1) for k in range(k_types)])
    q = np.asarray(game.prior.probabilities)
    found = residuals(drawn, q, game.prior.adaptive)
    wanted = [(found.defender, q @ exact_d)]
    wanted += list(zip(found.types, exact_d, strict=True))
    wanted += list(zip(found.attacker, exact_a, strict=True))
    for norm, exact in wanted:
        assert abs(norm.squared - exact @ exact) < 4 * norm.squared_error
        assert norm.squared_error < max(0.25 * exact @ exact, 1e-3)
    values = [exact_meta_values(game, game.prior[k], *pair, config) for k in range(k_types)]
    for g, (l_d, l_a) in zip(drawn, values, strict=True):
        for returns, value in ((g.return_D, l_d), (g.return_A, l_a)):
            assert abs(returns.mean() - value) < 4 * returns.std() / np.sqrt(batches)


@pytest.mark.slow
def test_the_adaptation_held_fixed_is_another_residual():
    """Line 12's gradient, by enumeration of what is adapted on; far from that of L_A."""
    game, config = matrix_game(), FINITE.replace(adapt_lr=4.0)
    defender, attacker = players(game, config)
    played, probability = game.episodes(game.prior[0], defender, attacker, config)

    def value(phi):
        def adapted(batch):
            one = jax.tree.map(lambda leaf: leaf[None, None], batch)
            step = policy_gradient(defender.policy, defender.params, one, config)
            params = jax.tree.map(lambda p, g: p + config.adapt_lr * g, defender.params, step)
            player = defender.replace(params=params)
            return exact_values(game, game.prior[0], player, attacker.replace(params=phi), 0.99)[1]

        return probability @ jax.vmap(adapted)(played.defender)

    exact = flat(jax.grad(value)(attacker.params))
    drawn = sample_gradients(
        jax.random.key(2), game, jnp.int32(0), defender, attacker, 0,
        config.replace(rollouts_at_once=1 << 20), 2048,
    )  # fmt: skip
    found = residuals([drawn], [1.0], (True,))
    fixed, full = found.attacker_fixed[0], found.attacker[0]
    assert abs(fixed.squared - exact @ exact) < 4 * fixed.squared_error
    assert abs(fixed.squared - full.squared) > 8 * fixed.squared_error


@pytest.mark.slow
def test_error_and_bound_cover_on_a_game():
    """200 certificates of 128 batches against the exact squared norm."""
    game, config = matrix_game(), FINITE.replace(group_size=2, baseline="group", adapt_lr=1.0)
    pair = players(game, config, theta=-0.5, phi=0.8)
    exact = exact_gradient(game, 0, *pair, config, 0)
    drawn = sample_gradients(
        jax.random.key(3), game, jnp.int32(0), *pair, 0,
        config.replace(rollouts_at_once=1 << 20), 200 * 128,
    )  # fmt: skip
    parts = jax.tree.map(lambda a: a.reshape(200, 128, *a.shape[1:]), drawn.defender)
    found = [estimate_norm(jax.tree.map(lambda a, i=i: a[i], parts)) for i in range(200)]
    covered = [abs(f.squared - exact @ exact) < 1.96 * f.squared_error for f in found]
    assert np.mean(covered) > 0.87  # not 95 %: the square of one noisy coordinate is skewed
    assert np.mean([f.bound**2 >= exact @ exact for f in found]) >= 0.93
    spread = np.std([f.squared for f in found], ddof=1)
    reported = np.sqrt(np.mean([f.squared_error**2 for f in found]))
    assert 0.8 * spread < reported < 1.3 * spread
    bias = np.mean([f.plain**2 - f.squared for f in found])
    noise = float(np.var(np.asarray(drawn.defender.gradient)))
    assert 0.5 * noise / 128 < bias < 1.1 * noise / 128


def test_at_a_known_equilibrium_it_is_not_told_from_0():
    """The leader's solution: 0 on average over Q, not by type; followers at their best response."""
    game = leader_follower()
    state = init_state(jax.random.key(0), game, CONTINUOUS)
    solution = leader_follower_answer(game).first_order
    defender = constant_mean(defender_player(state, game, CONTINUOUS), jnp.float32(solution))
    drawn, exact = [], []
    for k in range(2):
        attacker = best_response(
            game, game.prior[k], defender, attacker_player(state, game, CONTINUOUS, k)
        )
        exact.append(exact_gradient(game, k, defender, attacker, CONTINUOUS, 0))
        key = jax.random.fold_in(jax.random.key(1), k)
        drawn.append(
            sample_gradients(key, game, jnp.int32(k), defender, attacker, 0, CONTINUOUS, 256)
        )
    np.testing.assert_allclose(exact[0] + exact[1], 0.0, atol=1e-5)
    found = residuals(drawn, [0.5, 0.5], (True, True))
    norms = [found.defender, *found.attacker, *found.attacker_fixed]
    assert not any(norm.resolved for norm in norms)
    assert all(abs(norm.squared) < 3 * norm.squared_error for norm in norms)
    # what the plain norm says of the equilibrium is the budget
    parts = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 16], drawn) for i in range(0, 256, 16)]
    small = [residuals(part, [0.5, 0.5], (True, True)).defender for part in parts]
    assert np.mean([norm.plain for norm in small]) > 2 * found.defender.plain
    assert np.mean([norm.squared for norm in small]) < 0.2 * np.mean([n.plain**2 for n in small])
    for norm, gradient in zip(found.types, exact, strict=True):
        assert norm.resolved and gradient @ gradient > 0.01
        assert abs(norm.squared - gradient @ gradient) < 4 * norm.squared_error


@pytest.mark.slow
def test_batches_are_numbered_and_parts_change_nothing():
    game, config = two_types(), FINITE.replace(group_size=2, num_groups=2)
    pair = players(game, config)

    def draw(first, count, **settings):
        return sample_gradients(
            jax.random.key(7), game, jnp.int32(1), *pair, jnp.int32(first),
            config.replace(**settings), count,
        )  # fmt: skip

    whole, tail = draw(0, 6), draw(2, 4, rollouts_at_once=8)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(tail), strict=True):
        np.testing.assert_allclose(a[2:], b, rtol=1e-5, atol=1e-6)
    assert np.unique(np.asarray(whole.defender.gradient), axis=0).shape[0] > 1
    assert whole.malicious.all()  # the game does not say
    assert whole.reward_D.shape == (6, 2 * 4 * 2)


def test_what_is_differentiated_is_j():
    config = MetaConfig(estimator="future_gain", normalize_advantages=True, baseline="batch")
    assert unbiased(config).estimator == "return_to_go"
    assert unbiased(config).baseline == "leave_one_out"
    assert not unbiased(config).normalize_advantages
    single = config.replace(group_size=1, num_groups=1)
    assert unbiased(single).baseline == "none"


def test_settings_that_can_not_be_certified_are_named():
    with pytest.raises(ConfigError, match=rf"batches = 3: at least {MIN_BATCHES}"):
        check_residuals(MetaConfig(), 3)
    with pytest.raises(ConfigError, match="gradient = 'pathwise'"):
        check_residuals(MetaConfig(gradient="pathwise"), 8)
