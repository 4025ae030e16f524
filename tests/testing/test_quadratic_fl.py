"""FL with quadratic losses: its known answers, found again by polynomials and grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.errors import ConfigError
from metasg_jax.game.rollout import Player, init_normalizer, rollout_groups
from metasg_jax.policies import Fixed
from metasg_jax.testing import best_response, exact_values, quadratic_fl, quadratic_fl_answer
from tests.testing.players import bias, pair


def clean_polynomial(xi_share, scale, participation, horizon):
    """E sum_t -w_t^2 as a polynomial in a constant alpha, by expanding the recursion: float64."""
    P = np.polynomial.Polynomial
    alpha, w, total = P([0, 1]), P([1]), P([0])
    for _ in range(horizon):
        clean = w * (1 - alpha) ** 2 + alpha**2 * (8 / 10)
        c = 1 - xi_share * (1 + scale)
        attacked = w * (1 - alpha * c) ** 2 + alpha**2 * c**2 * (8 / 8)
        w = (1 - participation) * clean + participation * attacked
        total = total - w
    return total


def best_root(polynomial):
    roots = polynomial.deriv().roots()
    inside = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > 0) & (roots.real < 1)]
    candidates = np.array([0.0, *inside, 1.0])
    return candidates[polynomial(candidates).argmax()]


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_quadratic_fl_steps_are_roots_of_polynomials(horizon):
    answer = quadratic_fl_answer(quadratic_fl(horizon=horizon))
    none = clean_polynomial(0.2, 0.0, 0.0, horizon)
    ipm = clean_polynomial(0.2, 5.0, 0.5, horizon)
    usual = clean_polynomial(0.2, 1.0, 1.0, horizon)
    for i, polynomial in enumerate((none, ipm, usual)):
        np.testing.assert_allclose(answer.alphas[i], best_root(polynomial), atol=1e-6)
        np.testing.assert_allclose(answer.values[i], polynomial(best_root(polynomial)), atol=1e-6)
    np.testing.assert_allclose(answer.scales, (0.0, 5.0, 1.0), atol=1e-5)
    if horizon == 1:
        np.testing.assert_allclose(answer.alphas, (1 / 1.8, 0.4 / 0.94, 1 / 1.2), atol=1e-6)
    assert np.ptp(answer.alphas) > 0.2  # adapting is worth something


def test_quadratic_fl_prior_step_by_grid():
    game = quadratic_fl()
    answer = quadratic_fl_answer(game)
    fixed = Player(jnp.zeros(1), init_normalizer(1), Fixed(1))

    @jax.jit
    @jax.vmap
    def value(alpha):
        defender = fixed.replace(params=2 * alpha[None] - 1)
        scales = jnp.linspace(0.5, 2.0, 151)

        def attacked(scale):
            attacker = fixed.replace(params=2 * scale[None] / 3 - 1)
            return jnp.stack(exact_values(game, game.prior[2], defender, attacker, 1.0))

        responses = jax.vmap(attacked)(scales)
        adaptive = responses[jnp.argmax(responses[:, 1]), 0]
        others = [exact_values(game, game.prior[i], defender, fixed, 1.0)[0] for i in range(2)]
        return (sum(others) + adaptive) / 3

    grid = jnp.linspace(0.3, 0.8, 201)
    values = value(grid)
    assert abs(float(grid[values.argmax()]) - answer.alpha) < 0.005
    np.testing.assert_allclose(values.max(), answer.value, atol=1e-4)


def test_quadratic_fl_answers_with_noise_are_those_of_the_library():
    game = quadratic_fl()
    answer = quadratic_fl_answer(game, std_D=0.3, std_A=0.3)
    for i in range(3):
        mean = np.arctanh(2 * answer.alphas[i] - 1)
        defender, attacker = pair(mean, 0.0)
        response = best_response(game, game.prior[i], defender, attacker)
        value = exact_values(game, game.prior[i], defender, response, 1.0)[0]
        np.testing.assert_allclose(value, answer.values[i], atol=1e-5)
    scale = 3 * (1 + np.tanh(float(bias(response)[0]))) / 2
    np.testing.assert_allclose(scale, answer.scales[2], atol=1e-4)


def test_quadratic_fl_is_strictly_competitive_where_malicious_clients_were_sampled():
    game = quadratic_fl(participation=(0.5, 0.5))
    defender, attacker = pair(0.0, 0.0, std=0.5)
    for i, rounds in ((0, 0.0), (1, 0.5), (2, 0.5)):
        played = rollout_groups(jax.random.key(0), game, game.prior[i], defender, attacker, 500, 1)
        r_d, r_a = np.asarray(played.defender.reward), np.asarray(played.attacker.reward)
        malicious = np.asarray(played.info["malicious"])
        assert abs((malicious > 0).mean() - rounds) < 4 * np.sqrt(0.25 / malicious.size)
        assert set(np.unique(malicious)) <= {0, 2}
        np.testing.assert_array_equal(r_a[malicious > 0], -r_d[malicious > 0])
        np.testing.assert_array_equal(r_a[malicious == 0], 0.0)
        assert (r_d[malicious == 0] < 0).all()


def test_quadratic_fl_refuses_a_bad_chance():
    with pytest.raises(ConfigError, match="participation"):
        quadratic_fl(participation=(0.5, 1.5))
