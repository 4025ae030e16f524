"""What every closed-form game promises: exact values that sampling confirms, and a learner that runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax import testing
from metasg_jax.config import MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.game.rollout import rollout_groups
from metasg_jax.learning import init_state, pretrain
from metasg_jax.learning.estimators import ESTIMATORS
from metasg_jax.learning.state import attacker_player, defender_player
from tests.parameters import slow_but

DISCOUNT = 0.8
EPISODES = 20_000
GAMES = {
    "bandit": testing.bandit,
    "matrix": testing.matrix_game,
    "commitment": testing.commitment_game,
    "two_types": testing.two_types,
    "leader_follower": lambda: testing.leader_follower(dial=0.5),
    "quadratic_fl": lambda: testing.quadratic_fl(horizon=3),
    "double_well": testing.double_well,
    "probe": testing.probe_game,
}
every_game = pytest.mark.parametrize("name", GAMES)


def config(**changes):
    settings = dict(
        hidden=(), normalize=False, discount=DISCOUNT, init_std=0.3, group_size=2, baseline="none"
    )
    return MetaConfig(**{**settings, **changes})


def players(game, index, settings=None, seed=0):
    """Both players, with parameters away from their start."""
    settings = settings or config()
    state = init_state(jax.random.key(seed), game, settings)
    rng = np.random.default_rng(seed)

    def move(player):
        params = jax.tree.map(
            lambda a: a + jnp.asarray(rng.uniform(-0.5, 0.5, a.shape), jnp.float32), player.params
        )
        return player.replace(params=params)

    return (
        move(defender_player(state, game, settings)),
        move(attacker_player(state, game, settings, index)),
    )


@every_game
def test_exact_values_are_the_mean_of_rollouts(name):
    game = GAMES[name]()
    index = len(game.prior) - 1
    xi, (defender, attacker) = game.prior[index], players(game, index)

    @jax.jit
    def returns(key):
        played = rollout_groups(key, game, xi, defender, attacker, EPISODES, 1)
        powers = DISCOUNT ** jnp.arange(game.horizon)
        sides = (played.defender.reward, played.attacker.reward)
        return jnp.stack([side[:, 0] @ powers for side in sides])

    drawn = np.asarray(returns(jax.random.key(1)), np.float64)
    exact = np.asarray(testing.exact_values(game, xi, defender, attacker, DISCOUNT))
    sigma = drawn.std(axis=1) / np.sqrt(EPISODES)
    assert (np.abs(drawn.mean(axis=1) - exact) <= 4 * sigma + 1e-6).all()


@every_game
def test_gradients_of_exact_values_are_finite_differences(name):
    game = GAMES[name]()
    xi, pair = game.prior[0], players(game, 0)
    flat, unravel = jax.flatten_util.ravel_pytree(tuple(p.params for p in pair))

    @jax.jit
    def values(flat):
        both = (p.replace(params=q) for p, q in zip(pair, unravel(flat), strict=True))
        return jnp.stack(testing.exact_values(game, xi, *both, DISCOUNT))

    got = jax.jit(jax.jacobian(values))(flat)
    step = 2e-2
    moves = step * jnp.eye(flat.shape[0])
    at = jax.vmap(values)
    want = (at(flat[None] + moves) - at(flat[None] - moves)) / (2 * step)
    np.testing.assert_allclose(got, want.T, atol=2e-3)
    assert np.abs(got).max() > 1e-2


AT_ONCE = ("bandit", "commitment")  # one that is played at once, one with a commitment


@pytest.mark.parametrize("gradient", ESTIMATORS)
@pytest.mark.parametrize("name", slow_but(AT_ONCE, GAMES))
def test_every_estimators_mean_is_the_exact_gradient(name, gradient):
    game = GAMES[name]()
    settings = config(perturbation=0.05)
    if gradient == "credit" or (game.finite and gradient == "pathwise"):
        with pytest.raises(ConfigError, match=gradient):
            init_state(jax.random.key(0), game, settings.replace(gradient=gradient))
        return
    xi, (defender, attacker) = game.prior[0], players(game, 0)

    @jax.jit
    def draw(key):
        leads = jnp.ones((), bool)
        theta, _, _ = ESTIMATORS[gradient](key, game, xi, defender, attacker, leads, settings)
        return jax.flatten_util.ravel_pytree(theta)[0]

    def value(theta):
        leader = defender.replace(params=theta)
        return testing.exact_values(game, xi, leader, attacker, DISCOUNT)[0]

    exact = jax.flatten_util.ravel_pytree(jax.grad(value)(defender.params))[0]
    drawn = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(2), EPISODES)), np.float64)
    sigma = drawn.std(axis=0) / np.sqrt(EPISODES)
    smoothing = 5e-3 * np.abs(exact).max() if gradient == "evolution" else 0.0
    assert (np.abs(drawn.mean(axis=0) - exact) <= 4.5 * sigma + smoothing + 1e-5).all()
    assert np.abs(exact).max() > 2 * sigma.max()


@pytest.mark.parametrize("name", sorted(GAMES.keys() - {"bandit"}))  # its attacker has no choice
def test_no_nearby_attacker_beats_the_best_response(name):
    game = GAMES[name]()
    index = len(game.prior) - 1
    assert game.prior.adaptive[index]
    settings = config(learn_std=False)
    xi, (defender, attacker) = game.prior[index], players(game, index, settings)
    best = testing.best_response(game, xi, defender, attacker, DISCOUNT)
    flat, unravel = jax.flatten_util.ravel_pytree(best.params)

    @jax.jit
    def value(flat):
        player = attacker.replace(params=unravel(flat))
        return testing.exact_values(game, xi, defender, player, DISCOUNT)[1]

    rng = np.random.default_rng(0)
    noise = rng.normal(size=(200, flat.shape[0])) * rng.choice([0.1, 1.0, 40.0], (200, 1))
    others = jax.vmap(value)(flat[None] + jnp.asarray(noise, jnp.float32))
    assert (np.asarray(others) <= value(flat) + 1e-5).all()
    assert others.min() < value(flat) - 1e-2  # the attacker's choice matters


@every_game
def test_the_learner_runs(name):
    game = GAMES[name]()
    settings = config(attacker_steps=1, attacker_lr=0.1, defender_lr=0.1)
    state = init_state(jax.random.key(0), game, settings)
    start = jax.tree.map(np.asarray, state.theta)
    state, info = pretrain(jax.random.key(1), state, game, settings, 2)
    assert state.num_steps == 2 and bool(info["finite"].all())
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start, state.theta)
    assert max(jax.tree.leaves(moved)) > 0
