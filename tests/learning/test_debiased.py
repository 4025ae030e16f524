"""Meta gradients against exact enumeration: unbiased for their own objective, or biased by so much."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metasg_jax.config import MetaConfig
from metasg_jax.learning import init_state, meta_sl_step
from metasg_jax.learning.adaptation import adapt
from metasg_jax.learning.best_response import inner_loop
from metasg_jax.learning.debiased import attacker_meta_gradient, meta_gradient, replay
from metasg_jax.learning.estimators import discounted_return, score
from metasg_jax.learning.state import attacker_player, defender_player
from metasg_jax.testing import bandit, exact_meta_values, exact_values, matrix_game

CONFIG = MetaConfig(
    group_size=1, baseline="none", normalize=False, hidden=(), adapt_lr=0.5, outer="debiased"
)
DRAWS = 100_000


def kernel(value):
    return {"Dense_0": {"kernel": jnp.full((1, 1), value, jnp.float32)}}


def at_logit(player, logit):
    """The player with that logit of its second action; the bandit's attacker has none."""
    params = jax.tree.map(lambda leaf: jnp.full_like(leaf, logit), player.params)
    return player.replace(params=params)


def players(game, config, theta, phi):
    state = init_state(jax.random.key(0), game, config)
    attacker = attacker_player(state, game, config, 0)
    return at_logit(defender_player(state, game, config), theta), at_logit(attacker, phi)


def exact_gradient(game, config, theta, phi, objective="sampled", side=0):
    """Gradient of L_D in theta (side 0) or of L_A in phi (side 1)."""
    defender, attacker = players(game, config, theta, phi)

    def value(params):
        pair = (defender, attacker)
        pair = (pair[0].replace(params=params), pair[1]) if side == 0 else (
            pair[0], pair[1].replace(params=params)
        )  # fmt: skip
        return exact_meta_values(game, game.prior[0], *pair, config, objective)[side]

    at = (defender, attacker)[side].params
    return float(jax.grad(value)(at)["Dense_0"]["kernel"][0, 0])


def exact_path(game, config, defender, attacker):
    """theta_1 .. theta_l by exact gradients, leaves [l, ...]."""
    xi, params, path = game.prior[0], defender.params, []
    for _ in range(config.adapt_steps):
        gradient = jax.grad(
            lambda p: exact_values(game, xi, defender.replace(params=p), attacker, config.discount)[
                0
            ]
        )(params)
        params = optax.tree.add_scale(params, config.adapt_lr, gradient)
        path.append(params)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *path)


def draw(game, config, theta, phi, objective, exact_adaptation=False, side=0, full=True):
    """Mean and standard error of the estimate over independent draws, as the learner makes it."""
    defender, attacker = players(game, config, theta, phi)
    xi, leads = game.prior[0], jnp.ones((), bool)
    path = exact_path(game, config, defender, attacker) if exact_adaptation else None

    def estimate(key):
        keys = jax.random.split(key, 3)
        if path is None:
            adapted, batches = adapt(keys[0], game, xi, defender, attacker, config.adapt_lr, config)
        else:
            batches, player = [], defender
            for i, key_i in enumerate(jax.random.split(keys[0], config.adapt_steps)):
                batches.append(score(key_i, game, xi, player, attacker, leads, config)[2])
                player = defender.replace(params=jax.tree.map(lambda p, i=i: p[i], path))
            adapted, batches = player, jax.tree.map(lambda *b: jnp.stack(b), *batches)
        _, _, final = score(keys[1], game, xi, adapted, attacker, leads, config)
        # of an episode that shares nothing with the batches, not even the policy adapted on them
        _, _, other = score(keys[2], game, xi, defender, attacker, leads, config)
        if side == 1:
            baseline = discounted_return(other.attacker.reward, config.discount).mean()
            return attacker_meta_gradient(
                attacker.policy, attacker.params, batches.attacker, final.attacker, baseline,
                config, full,
            )  # fmt: skip
        baseline = discounted_return(other.defender.reward, config.discount).mean()
        return meta_gradient(
            defender.policy, defender.params, batches.defender, final.defender, baseline,
            config, objective, path,
        )  # fmt: skip

    values = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(1), DRAWS))
    values = np.asarray(values["Dense_0"]["kernel"], np.float64).reshape(-1)
    return values.mean(), values.std() / np.sqrt(values.size)


@pytest.mark.slow
def test_the_numbers_of_errata_11():
    game = bandit()
    assert exact_gradient(game, CONFIG, 0.3, 0.0) == pytest.approx(0.188105, abs=2e-6)
    for objective, value in (("sampled", 0.188105), ("printed", 0.173160)):
        mean, error = draw(game, CONFIG, 0.3, 0.0, objective)
        assert abs(mean - value) < 4 * error
        assert error < 0.0025  # the two are 0.015 apart


SETTINGS = [
    (bandit(), dict()),
    (bandit(), dict(num_groups=2, baseline="leave_one_out")),
    (bandit(), dict(group_size=2, baseline="group", estimator="return")),
    (bandit(), dict(adapt_steps=2, adapt_lr=1.5)),
    (bandit(horizon=2), dict(adapt_lr=1.0, estimator="return_to_go", discount=0.7)),
    (matrix_game(), dict(adapt_lr=2.0)),
    (matrix_game(), dict(adapt_steps=2, adapt_lr=2.0, group_size=2, baseline="group")),
]


def at_once(*places):
    """Cases of SETTINGS, of which those at the places meet each run of the tests."""
    marks = [() if i in places else pytest.mark.slow for i in range(len(SETTINGS))]
    cases = [pytest.param(*each, marks=m) for each, m in zip(SETTINGS, marks, strict=True)]
    return pytest.mark.parametrize(("game", "settings"), cases)


@pytest.mark.slow
@at_once(4, 6)  # several rounds, and a game with an attacker
def test_sampled_adaptation(game, settings):
    config = CONFIG.replace(**settings)
    want = exact_gradient(game, config, 0.3, 0.8)
    mean, error = draw(game, config, 0.3, 0.8, "sampled")
    assert abs(mean - want) < 4 * error
    assert error < 0.15 * abs(want)


@pytest.mark.slow
@at_once(6)
def test_exact_adaptation(game, settings):
    config = CONFIG.replace(**settings)
    want = exact_gradient(game, config, 0.3, 0.8, "exact")
    mean, error = draw(game, config, 0.3, 0.8, "exact", exact_adaptation=True)
    assert abs(mean - want) < 4 * error
    assert error < 0.1 * abs(want)


def test_the_two_objectives_differ():
    config = CONFIG.replace(adapt_lr=2.0)
    sampled = exact_gradient(bandit(), config, 0.3, 0.0)
    exact = exact_gradient(bandit(), config, 0.3, 0.0, "exact")
    assert abs(sampled - exact) > 0.05 * abs(exact)


@pytest.mark.parametrize(
    "settings",
    [pytest.param(dict(adapt_lr=2.0), marks=pytest.mark.slow), dict(adapt_lr=2.0, adapt_steps=2)],
)
def test_the_attackers_gradient_moves_what_is_adapted_to(settings):
    config = CONFIG.replace(**settings)
    want = exact_gradient(matrix_game(), config, 0.3, 0.8, side=1)
    mean, error = draw(matrix_game(), config, 0.3, 0.8, "sampled", side=1)
    fixed, _ = draw(matrix_game(), config, 0.3, 0.8, "sampled", side=1, full=False)
    assert abs(mean - want) < 4 * error
    assert abs(fixed - want) > 8 * error  # errata 10: line 12's gradient is another


def test_the_learner_adapts_again_to_the_best_response():
    """Line 18's batches: restarted from theta, against phi(N_A); line 6's against phi."""
    game = matrix_game()
    config = CONFIG.replace(group_size=4, adapt_steps=2, attacker_steps=3, attacker_lr=2.0)
    state = init_state(jax.random.key(0), game, config)
    defender = defender_player(state, game, config)
    attacker = attacker_player(state, game, config, 0)
    opt = jax.tree.map(lambda leaf: leaf[0], state.opt_A)
    inner = inner_loop(
        jax.random.key(3), game, game.prior[0], jnp.ones((), bool), defender, attacker, opt,
        config, adapt_again=True,
    )  # fmt: skip
    assert inner.again.defender.reward.shape == (2, 1, 4, 1)
    assert inner.played.defender.reward.shape == inner.unadapted.defender.reward.shape == (1, 4, 1)
    assert abs(float(inner.attacker["Dense_0"]["kernel"][0, 0])) > 0.1
    again = adapt_on(inner, defender, config)
    np.testing.assert_allclose(again, inner.defender["Dense_0"]["kernel"], rtol=1e-5)


def adapt_on(inner, defender, config):
    """Psi by hand on line 18's batches."""
    again = inner.again.defender
    theta, _ = replay(defender.policy, defender.params, again, config, curvature=False)
    return theta["Dense_0"]["kernel"]


def test_a_debiased_meta_step_follows_the_meta_gradient():
    """The mean of many meta-steps against the exact gradient, attackers' response included."""
    game = bandit()
    config = CONFIG.replace(group_size=2, adapt_lr=1.0, defender_lr=1.0)
    state = init_state(jax.random.key(0), game, config).replace(theta=kernel(0.3))
    keys = jax.random.split(jax.random.key(1), 50_000)
    step = jax.vmap(lambda k: meta_sl_step(k, state, game, config)[0].theta)
    moved = np.asarray(step(keys)["Dense_0"]["kernel"], np.float64).reshape(-1) - 0.3
    want = exact_gradient(game, config, 0.3, 0.0)
    assert abs(moved.mean() - want) < 4 * moved.std() / np.sqrt(moved.size)
    assert abs(moved.mean() - want) < 0.1 * abs(want)


@pytest.mark.slow
@pytest.mark.parametrize("outer", ["debiased", "debiased_exact"])
def test_without_adaptation_all_branches_are_one(outer):
    game = matrix_game()
    config = CONFIG.replace(group_size=4, adapt_steps=0, defender_lr=0.5)
    state = init_state(jax.random.key(0), game, config)
    plain, _ = meta_sl_step(jax.random.key(1), state, game, config.replace(outer="fomaml"))
    other, _ = meta_sl_step(jax.random.key(1), state, game, config.replace(outer=outer))
    assert plain.theta["Dense_0"]["kernel"] != state.theta["Dense_0"]["kernel"]
    np.testing.assert_allclose(
        other.theta["Dense_0"]["kernel"], plain.theta["Dense_0"]["kernel"], rtol=1e-6
    )
