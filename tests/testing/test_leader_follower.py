"""The leader-follower game: its solution, its gradients, and where algorithms that adapt stop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import rollout_groups
from metasg_jax.testing import (
    adapted_answer,
    best_response,
    exact_meta_values,
    exact_values,
    first_order_gradient,
    leader_follower,
    leader_follower_answer,
    leader_gradient,
    leader_value,
)
from tests.testing.players import bias, pair

DIALS = (0.0, 0.5, -1.0)


def stackelberg_objective(game, q):
    """V by the library's exact values and best responses, a function of the leader's mean."""

    def value(mean):
        total = 0.0
        for i, weight in enumerate(q):
            defender, attacker = pair(mean, jnp.zeros(2))
            defender = defender.replace(
                params={"mean": {"Dense_0": {"kernel": jnp.zeros((1, 2)), "bias": mean}}}
            )
            response = best_response(game, game.prior[i], defender, attacker)
            total += weight * exact_values(game, game.prior[i], defender, response, 1.0)[0]
        return total

    return value


@pytest.mark.parametrize("dial", DIALS)
def test_leader_follower_solution_and_gradients(dial):
    game, q = leader_follower(dial), (0.5, 0.5)
    answer = leader_follower_answer(game)
    found = minimize(lambda u: -leader_value(game, u), np.zeros(2), tol=1e-10)
    np.testing.assert_allclose(found.x, answer.stackelberg, atol=1e-5)
    np.testing.assert_allclose(-found.fun, answer.value, atol=1e-9)
    np.testing.assert_allclose(first_order_gradient(game, answer.first_order), 0.0, atol=1e-9)
    np.testing.assert_allclose(leader_gradient(game, answer.stackelberg), 0.0, atol=1e-9)

    value = jax.jit(jax.value_and_grad(stackelberg_objective(game, q)))
    u = np.array([0.3, -0.6])
    level, gradient = value(jnp.asarray(u, jnp.float32))
    np.testing.assert_allclose(gradient, leader_gradient(game, u), atol=1e-5)
    other = value(jnp.zeros(2))[0]
    # values with noise differ from those without by a constant
    np.testing.assert_allclose(
        level - other, leader_value(game, u) - leader_value(game, [0, 0]), atol=1e-5
    )


def test_danskin_error_is_linear_in_the_dial():
    errors = np.array([leader_follower_answer(leader_follower(d)).danskin_error for d in DIALS])
    np.testing.assert_allclose(errors[0], 0.0)
    np.testing.assert_allclose(errors[1] / 0.5, errors[2] / -1.0, atol=1e-9)
    assert np.abs(errors[1]).max() > 0.05
    first = [leader_follower_answer(leader_follower(d)).first_order for d in DIALS]
    np.testing.assert_allclose(first[0], first[1])


@pytest.mark.parametrize("dial", DIALS)
def test_strict_competitiveness_is_what_the_dial_breaks(dial):
    game = leader_follower(dial)
    defender, attacker = pair([0.2, 0.1], [-0.1, 0.3], std=0.5)
    played = rollout_groups(jax.random.key(0), game, game.prior[0], defender, attacker, 500, 1)
    r_d, r_a = (np.asarray(s.reward).ravel() for s in (played.defender, played.attacker))
    design = np.stack([r_a, np.ones_like(r_a)], 1)
    residual = r_d - design @ np.linalg.lstsq(design, r_d, rcond=None)[0]
    share = residual.std() / r_d.std()
    assert share < 1e-5 if dial == 0 else share > 0.05


@pytest.mark.parametrize("dial", (0.0, 0.5))
def test_where_algorithms_that_adapt_stop(dial):
    eta, kappa = 0.3, 0.1
    game = leader_follower(dial)
    answer = adapted_answer(game, eta, kappa)
    config = MetaConfig(
        adapt_lr=eta, discount=1.0, hidden=(), normalize=False, learn_std=False, init_std=0.3
    )

    def adapted_pair(mean, i):
        """The adapted mean, and the response to it with the adaptation held: a fixed point."""
        xi = game.prior[i]
        defender, attacker = pair(mean, jnp.zeros(2))

        def step(carry, _):
            response = carry[1]
            follower = replaced(attacker, response)
            slope = jax.grad(
                lambda m: exact_values(game, xi, replaced(defender, m), follower, 1.0)[0]
            )
            moved = mean + eta * slope(mean)
            follower = best_response(game, xi, replaced(defender, moved), follower)
            return (moved, bias(follower)), None

        carry, _ = jax.lax.scan(step, (mean, jnp.zeros(2)), None, length=20)
        return replaced(defender, carry[0]), replaced(attacker, carry[1])

    def replaced(player, mean):
        return player.replace(
            params={"mean": {"Dense_0": {"kernel": jnp.zeros((1, 2)), "bias": mean}}}
        )

    @jax.jit
    def gradients(mean):
        first, through, gap = [], [], []
        for i in range(2):
            moved, attacker = adapted_pair(mean, i)
            xi = game.prior[i]
            first.append(
                jax.grad(
                    lambda m, x=xi, a=attacker, d=moved: exact_values(
                        game, x, replaced(d, m), a, 1.0
                    )[0]
                )(bias(moved))
            )
            through.append(
                jax.grad(
                    lambda m, x=xi, a=attacker, d=moved: exact_meta_values(
                        game, x, replaced(d, m), a, config, "exact"
                    )[0]
                )(mean)
            )
            gap.append(bias(moved) - mean)
        return [jnp.stack(each).mean(axis=0) for each in (first, through, gap)]

    at = [
        jnp.asarray(m, jnp.float32) for m in (answer.fomaml, answer.debiased_exact, answer.reptile)
    ]
    np.testing.assert_allclose(gradients(at[0])[0], 0.0, atol=1e-5)
    np.testing.assert_allclose(gradients(at[1])[1], 0.0, atol=1e-5)
    first, _, gap = gradients(at[2])
    np.testing.assert_allclose(gap + kappa * first, 0.0, atol=1e-5)

    @jax.jit
    def anticipated(mean):
        values = []
        for i in range(2):
            moved, attacker = adapted_pair(mean, i)
            values.append(exact_values(game, game.prior[i], moved, attacker, 1.0)[0])
        return sum(values) / 2

    best = anticipated(jnp.asarray(answer.anticipating, jnp.float32))
    for direction in np.eye(2):
        for step in (-0.2, 0.2):
            assert (
                anticipated(jnp.asarray(answer.anticipating + step * direction, jnp.float32)) < best
            )
    assert np.abs(answer.debiased_exact - answer.anticipating).max() > 1e-3
    slope = jax.jit(jax.grad(anticipated))(jnp.asarray(answer.anticipating, jnp.float32))
    np.testing.assert_allclose(slope, 0.0, atol=1e-5)
