"""Assumptions, measured on games where the constants are known; and games that are refused."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.config import MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.learning import init_state
from metasg_jax.learning.assumptions import (
    PLBound,
    check_rewards,
    competition_by_presence,
    fit_competition,
    pl_bound,
    probe_rewards,
    smoothness,
    step_sizes,
    walk,
)
from metasg_jax.learning.check import check_game
from metasg_jax.learning.sampled_gradients import Gradients, draws_of, sample_gradients
from metasg_jax.learning.state import attacker_player, defender_player
from metasg_jax.programs.certify import Budget, certify_state, plays
from metasg_jax.testing import leader_follower, matrix_game, probe_game, quadratic_fl

CONTINUOUS = MetaConfig(
    group_size=32, baseline="leave_one_out", normalize=False, hidden=(), learn_std=False,
    init_std=0.3, adapt_steps=0, rollouts_at_once=1 << 20,
)  # fmt: skip


# strict competitiveness


def test_an_exact_line_leaves_nothing():
    r_a = np.random.default_rng(0).standard_normal((4, 3))
    fit = fit_competition(-2 * r_a + 0.5, r_a)
    assert fit.rounds == 12 and fit.slope_is_negative
    assert (fit.c, fit.d) == pytest.approx((-2, 0.5))
    assert fit.rms < 1e-12 and fit.unexplained < 1e-12


def test_what_the_line_leaves_is_measured():
    rng = np.random.default_rng(0)
    r_a, noise = rng.standard_normal((2, 100_000))
    fit = fit_competition(0.5 * r_a + 2 * noise, r_a)
    assert not fit.slope_is_negative
    assert fit.rms == pytest.approx(2, rel=0.02)
    assert fit.unexplained == pytest.approx(4 / 4.25, rel=0.01)


def test_without_variation_there_is_no_slope():
    fit = fit_competition([-1.0, -2.0], [0.0, 0.0])
    assert math.isnan(fit.c) and not fit.slope_is_negative
    assert (fit.d, fit.rms, fit.unexplained) == (-1.5, 0.5, 1.0)
    assert fit_competition([-1.0, -1.0], [1.0, 2.0]).unexplained == 0.0
    assert fit_competition([], []).rounds == 0


@pytest.mark.parametrize("participation", [0.5, 1.0])
def test_rounds_without_a_malicious_client_break_it(participation):
    """Quadratic FL: r_D = -r_A where clients attack; elsewhere r_A = 0 and r_D is what it is."""
    game = quadratic_fl(participation=(participation, participation))
    config = CONTINUOUS.replace(group_size=4)
    state = init_state(jax.random.key(0), game, config)
    drawn = sample_gradients(
        jax.random.key(1), game, jnp.int32(1), defender_player(state, game, config),
        attacker_player(state, game, config, 1), 0, config, 64,
    )  # fmt: skip
    fits = competition_by_presence([drawn])
    assert fits["with"].c == pytest.approx(-1, abs=1e-4) and fits["with"].unexplained < 1e-6
    assert fits["all"].rounds == fits["with"].rounds + fits["without"].rounds == 64 * 4 * 2
    if participation == 1.0:
        assert fits["without"].rounds == 0 and fits["all"].unexplained < 1e-6
    else:
        assert fits["without"].rounds > 0 and math.isnan(fits["without"].c)
        assert fits["all"].unexplained > 0.01


# constants


def quadratic(noise, common=True):
    """Draws of gradients of concave quadratics in theta and phi, both of size 2."""
    seeds = itertools.count()
    own_d, cross_d = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[0.5, 0.0], [0.0, 0.5]])
    own_a, cross_a = np.array([[3.0, 0.0], [0.0, 0.6]]), np.array([[0.0, 0.4], [0.4, 0.0]])

    def draw(theta, phi, measures):
        rng = np.random.default_rng([measures, 0 if common else next(seeds)])
        theta, phi = np.asarray(theta["a"], np.float64), np.asarray(phi["b"], np.float64)
        n_d, n_a = noise * rng.standard_normal((2, 400, 2))
        value = -0.5 * phi @ own_a @ phi + phi @ cross_a @ theta
        returns = value + noise * rng.standard_normal(400)
        g_d = -own_d @ theta + cross_d @ phi + n_d
        g_a = -own_a @ phi + cross_a @ theta + n_a
        g_d, g_a = draws_of(g_d), draws_of(g_a)
        return Gradients(g_d, g_d, g_a, g_a, -returns, returns, returns, returns, returns > 0)

    return draw


def walked(noise, points=4, theta=(0.0, 0.0), phi=(1.0, 1.0), common=True):
    draw = quadratic(noise, common)
    theta, phi = {"a": jnp.array(theta)}, {"b": jnp.array(phi)}
    start = draw(theta, phi, False), draw(theta, phi, True)
    return walk(draw, theta, phi, start, np.array([1.0, 0.0]), points)


def test_a_walk_stays_in_the_unit_ball():
    found = walked(noise=0.0)
    assert len(found.points) == 5 and found.shift == 0.25
    assert found.distances[0] == 0 and found.distances[1] == pytest.approx(0.25)
    assert (found.distances <= 1 + 1e-6).all()
    values = [g.return_A.mean() for g in found.points]
    assert values[-1] > values[0]


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_constants_are_bounds_of_the_true_ones(noise):
    found = walked(noise)
    constants, mu = smoothness(found), pl_bound(found)
    slack = 1 + noise
    assert constants.L11.norm == pytest.approx(2.0, rel=0.01 + noise / 3)
    assert constants.L21.norm == pytest.approx(0.4, rel=0.01 + noise)
    assert constants.L12.norm == pytest.approx(0.5, rel=0.01 + noise)
    assert 0.6 < constants.L22.norm < 3.0 * slack
    # the true constant is the smallest curvature
    assert 0.6 / slack < mu.value < 30 * slack
    sizes = step_sizes(constants, mu)
    assert sizes.whole and sizes.kappa_A == pytest.approx(1 / constants.L22.norm)
    second = constants.L12.norm * constants.L21.norm / mu.value
    assert constants.L11.norm + second == pytest.approx(sizes.L)
    assert sizes.kappa_D == pytest.approx(1 / sizes.L)


def test_what_is_not_resolved_is_not_a_constant():
    found = walked(noise=300.0, common=False)
    constants, mu = smoothness(found), pl_bound(found)
    assert not any(getattr(constants, f.name).resolved for f in dataclasses.fields(constants))
    sizes = step_sizes(constants, PLBound(math.inf, math.nan))
    assert (sizes.L, sizes.whole) == (0.0, False)
    assert math.isinf(sizes.kappa_A) and math.isinf(sizes.kappa_D)
    assert mu.value > 10  # large or unknown: it says nothing


@pytest.mark.slow
def test_leader_and_follower_give_their_curvatures():
    """J_A = -e'Me/2 + ..: L22 and mu lie within the eigenvalues of M; strictly competitive."""
    game = leader_follower()
    state = init_state(jax.random.key(0), game, CONTINUOUS)
    told: list[str] = []
    budget = Budget(batches=64, points=3)
    rows = certify_state(state, game, CONTINUOUS, budget, told.append)
    assert len(told) == plays(game, budget)
    found = {(r.type, r.quantity): r for r in rows}
    for k, name in enumerate(game.prior.names):
        low, high = np.linalg.eigvalsh(np.asarray(game.prior[k].M, np.float64))
        l22, mu = found[name, "L22"], found[name, "mu"]
        assert low - 3 * l22.error < l22.estimate < high + 3 * l22.error
        assert mu.estimate + 3 * (0 if math.isnan(mu.error) else mu.error) > low
        assert found[name, "kappa_A"].estimate == pytest.approx(1 / l22.estimate)
        assert found[name, "c (with)"].estimate == pytest.approx(-1, abs=1e-4)
        assert found[name, "unexplained (with)"].estimate < 1e-6
    dialled = certify_state(state, leader_follower(dial=1.0), CONTINUOUS, Budget(8, 0))
    left = [r.estimate for r in dialled if r.quantity == "unexplained (with)"]
    assert len(left) == 3 and min(left) > 0.01
    assert not any(r.quantity == "mu" for r in dialled)


# games that are refused


def no_types(game):
    return game.replace(prior=game.prior.replace(names=(), adaptive=()))


def probabilities(*q):
    return lambda game: game.replace(
        prior=game.prior.replace(probabilities=jnp.array(q, jnp.float32))
    )


def field(**changes):
    return lambda game: game.replace(**changes)


@pytest.mark.parametrize(
    ("game", "change", "message"),
    [
        (probe_game(), no_types, "no types; Q is a distribution over at least one"),
        (probe_game(), probabilities(0.5, 0.4), "Q is a distribution"),
        (probe_game(), probabilities(1.5, -0.5), "non-negative, of sum 1"),
        (probe_game(), probabilities(math.nan, 1.0), "non-negative, of sum 1"),
        (probe_game(), probabilities(1.0), "one for each of 2 types"),
        (probe_game(), field(horizon=0), "horizon = 0: at least 1 round"),
        (probe_game(), field(action_size=0), "no parameters theta"),
        (probe_game(), field(attacker_action_size=0), "type 'type 1' is adaptive, but its attacker"),
        (matrix_game([[1.0, 2.0]], [[1.0, 2.0]]), lambda game: game, "action_size = 1: at least 2"),
        (matrix_game([[1.0], [2.0]], [[1.0], [2.0]]), lambda game: game, "no parameters phi"),
    ],
)  # fmt: skip
def test_a_game_outside_the_assumptions_is_refused(game, change, message):
    with pytest.raises(ConfigError, match=message):
        init_state(jax.random.key(0), change(game), MetaConfig(hidden=(), normalize=False))


def test_a_traced_game_is_taken_as_it_is():
    game, config = probe_game(), MetaConfig(hidden=(2,))
    shapes = jax.eval_shape(lambda key, g: init_state(key, g, config), jax.random.key(0), game)
    assert shapes.step.shape == ()
    check_game(probe_game(adaptive=(False, False)).replace(attacker_action_size=0))


def test_a_reward_that_is_not_finite_is_named():
    game = probe_game(defender_aims=(-0.6, 0.4))
    types = game.prior.types.replace(defender_aim=jnp.array([-0.6, jnp.nan]))
    game = game.replace(prior=game.prior.replace(types=types), revealed=False)
    config = CONTINUOUS.replace(group_size=2)
    state = init_state(jax.random.key(0), game, config)
    with pytest.raises(ConfigError, match=r"type 'type 1' pays r_D = nan: rewards must be finite"):
        certify_state(state, game, config, Budget(8, 0))
    with pytest.raises(ConfigError, match=r"type 'type 1' pays r_D = nan"):
        probe_rewards(jax.random.key(0), game, config)
    probe_rewards(jax.random.key(0), matrix_game(), config)  # shorter than the probe
    fine = quadratic(0.1)({"a": jnp.zeros(2)}, {"b": jnp.zeros(2)}, True)
    check_rewards("fine", fine)
    broken = fine.replace(reward_A=np.full(3, np.inf))
    with pytest.raises(ConfigError, match="pays r_A = inf"):
        check_rewards("broken", broken)
