"""The double well: its threshold and its two wells, found again by brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.testing import double_well, double_well_answer, exact_values
from tests.testing.players import pair


def landscape(dial, std, points=400_001):
    """E f and its stationary points for y > 0, on a grid in float64."""
    m = np.linspace(0, 3, points)[1:]
    damping = np.exp(-2 * (2.0 * std) ** 2)
    slope = 2 * m + 2 * dial * damping * np.sin(4 * m)
    return m[1:][np.diff(np.sign(slope)) != 0]


@pytest.mark.parametrize("std", [0.0, 0.2])
def test_double_well_threshold(std):
    threshold = double_well_answer(double_well(), std, std).threshold
    assert len(landscape(0.999 * threshold, std)) == 0
    assert len(landscape(1.001 * threshold, std)) == 2
    assert np.isnan(double_well_answer(double_well(0.99 * threshold), std, std).wrong_leader)


def test_double_well_points_by_brute_force():
    std, game = 0.2, double_well()
    answer = double_well_answer(game, std, std)
    xi = game.prior[0]
    np.testing.assert_allclose(
        answer.wrong_attacker + 1.3, landscape(2.0, std)[1], atol=1e-4
    )  # the second stationary point is the well, the first its rim

    @jax.jit
    @jax.vmap
    def value(x, v):
        defender, attacker = pair(jnp.zeros(1), jnp.zeros(1), std)

        def at(player, mean):
            return player.replace(
                params={"mean": {"Dense_0": {"kernel": jnp.zeros((1, 1)), "bias": mean[None]}}}
            )

        return exact_values(game, xi, at(defender, x), at(attacker, v), 1.0)[0]

    x = jnp.linspace(-1, 2, 601)
    right = value(x, jnp.full_like(x, answer.attacker))
    np.testing.assert_allclose(x[right.argmax()], answer.leader, atol=0.01)
    np.testing.assert_allclose(right.max(), answer.value, atol=1e-3)
    wrong = value(x, jnp.full_like(x, answer.wrong_attacker))
    np.testing.assert_allclose(x[wrong.argmax()], answer.wrong_leader, atol=0.01)
    np.testing.assert_allclose(wrong.max(), answer.wrong_believed, atol=1e-3)
    np.testing.assert_allclose(
        value(*(jnp.asarray([a]) for a in (answer.wrong_leader, answer.attacker)))[0],
        answer.wrong_value,
        atol=1e-5,
    )
    # V is smallest over all attackers at the right well
    v = jnp.linspace(-4, 2, 1201)
    np.testing.assert_allclose(
        value(jnp.full_like(v, answer.leader), v).min(), answer.value, atol=1e-4
    )
    assert answer.wrong_leader - answer.leader > 0.3 and answer.value - answer.wrong_value > 0.3


@pytest.mark.parametrize(("dial", "stays"), [(1.0, False), (2.0, True)])
def test_a_response_that_starts_in_the_wrong_well_stays_there_beyond_the_threshold(dial, stays):
    std = 0.2
    game = double_well(dial)
    xi, answer = game.prior[0], double_well_answer(double_well(dial), std, std)
    assert (dial > answer.threshold) == stays
    defender, attacker = pair(jnp.zeros(1), jnp.zeros(1), std)

    @jax.jit
    def respond(params):
        def step(params, _):
            slope = jax.grad(
                lambda p: exact_values(game, xi, defender, attacker.replace(params=p), 1.0)[1]
            )(params)
            return jax.tree.map(lambda a, b: a + 0.05 * b, params, slope), None

        return jax.lax.scan(step, params, None, length=400)[0]

    end = float(respond(attacker.params)["mean"]["Dense_0"]["bias"][0])
    np.testing.assert_allclose(end, answer.wrong_attacker if stays else answer.attacker, atol=1e-3)
