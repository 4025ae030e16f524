"""A game with known answers, and everything exact about it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player
from metasg_jax.learning import init_state
from metasg_jax.learning.state import attacker_player, defender_player
from metasg_jax.testing import (
    best_response,
    double_well,
    exact_meta_values,
    exact_values,
    leader_follower,
    matrix_game,
    two_types,
)


class Problem(NamedTuple):
    """A game with the settings it is learned with.

    Attributes:
        name: for tables.
        game: a closed-form game.
        config: of the learner; ``attacker_lr`` and ``defender_lr`` are the step sizes.
        spread: deviation of the initial points' parameters.
        newton: whether the best response needs a Newton step where phi moves the adaptation; the
            others' is dominant.
    """

    name: str
    game: object
    config: MetaConfig
    spread: float = 1.0
    newton: bool = False


class Oracle(NamedTuple):
    """Exact functions of flat parameters; ``k`` is the type. Adaptation is by exact gradients.

    Attributes:
        adapt: (theta, phi, k) -> the adapted policy.
        attacker_gradient: (adapted, phi, k) -> grad_phi J_A with the adaptation fixed (line 12).
        leader_gradient: (theta, phi, k) -> grad_theta L_D.
        final_gradient: (adapted, phi, k) -> grad_theta J_D.
        values: (theta, phi, k) -> (L_D, L_A).
        respond: (adapted, k) -> the best phi, the adaptation fixed.
        respond_fully: (theta, k) -> the phi that maximises L_A, the adaptation following it.
        weights: f32[K], Q.
    """

    adapt: Callable
    attacker_gradient: Callable
    leader_gradient: Callable
    final_gradient: Callable
    values: Callable
    respond: Callable
    respond_fully: Callable
    weights: jax.Array


def oracle(problem: Problem) -> Oracle:
    """All that is exact about a problem."""
    game, config = problem.game, problem.config
    state = init_state(jax.random.key(0), game, config)
    defender, attacker = (
        defender_player(state, game, config),
        attacker_player(state, game, config, 0),
    )
    _, to_theta = ravel_pytree(defender.params)
    _, to_phi = ravel_pytree(attacker.params)

    def players(theta, phi) -> tuple[Player, Player]:
        return defender.replace(params=to_theta(theta)), attacker.replace(params=to_phi(phi))

    def plain(theta, phi, k):
        return exact_values(game, game.prior[k], *players(theta, phi), config.discount)

    def values(theta, phi, k):
        return exact_meta_values(game, game.prior[k], *players(theta, phi), config, "exact")

    def adapt(theta, phi, k):
        for _ in range(config.adapt_steps):
            theta = theta + config.adapt_lr * jax.grad(lambda t: plain(t, phi, k)[0])(theta)
        return theta

    def respond(theta, k):
        blank = jnp.zeros_like(ravel_pytree(attacker.params)[0])
        found = best_response(game, game.prior[k], *players(theta, blank), config.discount)
        return ravel_pytree(found.params)[0]

    def respond_fully(theta, k):
        phi = respond(theta, k)
        if not problem.newton:
            return phi
        slope = jax.grad(lambda p: values(theta, p, k)[1])
        # parameters that nothing depends on have no curvature: the least-norm step leaves them
        return phi - jnp.linalg.pinv(jax.jacobian(slope)(phi), rtol=1e-4) @ slope(phi)

    return Oracle(
        adapt=adapt,
        attacker_gradient=jax.grad(lambda t, p, k: plain(t, p, k)[1], argnums=1),
        leader_gradient=jax.grad(lambda t, p, k: values(t, p, k)[0]),
        final_gradient=jax.grad(lambda t, p, k: plain(t, p, k)[0]),
        values=values,
        respond=respond,
        respond_fully=respond_fully,
        weights=game.prior.probabilities,
    )


def over_types(weights: jax.Array, fun: Callable):
    """E_Q of a function of the type's index."""
    return sum(weights[k] * fun(k) for k in range(weights.shape[0]))


def value_gradient(o: Oracle, theta):
    """Grad V by Danskin's identity, at best responses that the adaptation follows: dial 0 only."""
    return over_types(o.weights, lambda k: o.leader_gradient(theta, o.respond_fully(theta, k), k))


def residuals(o: Oracle, theta, phis) -> jax.Array:
    """f32[4]: the defender's residual of Definition 4.1 at (theta, phi), the attackers' largest
    with the adaptation fixed, |grad V|, and V.
    """
    defender = over_types(o.weights, lambda k: o.leader_gradient(theta, phis[k], k))
    attackers = [
        jnp.linalg.norm(o.attacker_gradient(o.adapt(theta, phis[k], k), phis[k], k))
        for k in range(o.weights.shape[0])
    ]
    return jnp.stack(
        [
            jnp.linalg.norm(defender),
            jnp.stack(attackers).max(),
            jnp.linalg.norm(value_gradient(o, theta)),
            over_types(o.weights, lambda k: o.values(theta, o.respond_fully(theta, k), k)[0]),
        ]
    )


class Constants(NamedTuple):
    """Constants of Assumptions 4.4 and D.2, the largest over types; lower bounds if sampled."""

    mu: float
    L11: float
    L12: float
    L21: float
    L22: float

    @property
    def L(self) -> float:
        """Lipschitz constant of grad V (Lemma D.4)."""
        return self.L11 + self.L12 * self.L21 / self.mu if self.mu > 0 else float("inf")


def constants(problem: Problem, key, num_points: int = 200) -> Constants:
    """Norms of second derivatives at random points; mu from the attacker's gaps and gradients."""
    o = oracle(problem)
    theta_size, phi_size = sizes(problem)
    kinds = range(o.weights.shape[0])

    @jax.jit
    @jax.vmap
    def at(key):
        key_theta, key_phi = jax.random.split(key)
        theta = problem.spread * jax.random.normal(key_theta, (theta_size,))
        phi = problem.spread * jax.random.normal(key_phi, (phi_size,))

        def one(k):
            def l_d(t, p):
                return o.values(t, p, k)[0]

            def l_a(t, p):
                return o.values(t, p, k)[1]

            def norm(fun, first, second):
                hessian = jax.jacobian(jax.grad(fun, first), second)(theta, phi)
                return jnp.linalg.norm(hessian, 2)

            gap = l_a(theta, o.respond_fully(theta, k)) - l_a(theta, phi)
            slope = jax.grad(l_a, 1)(theta, phi)
            mu = slope @ slope / (2 * jnp.maximum(gap, 1e-6))
            return jnp.stack(
                [mu, norm(l_d, 0, 0), norm(l_d, 0, 1), norm(l_a, 1, 0), norm(l_a, 1, 1)]
            )

        return jnp.stack([one(k) for k in kinds])

    found = np.asarray(at(jax.random.split(key, num_points)), np.float64).reshape(-1, 5)
    return Constants(float(found[:, 0].min()), *map(float, found[:, 1:].max(axis=0)))


def sizes(problem: Problem) -> tuple[int, int]:
    """Numbers of parameters of the two policies."""
    state = init_state(jax.random.key(0), problem.game, problem.config)
    phi = attacker_player(state, problem.game, problem.config, 0).params
    return ravel_pytree(state.theta)[0].size, ravel_pytree(phi)[0].size


def config(**changes) -> MetaConfig:
    """Affine or tabular policies, no clipping, SGD: Algorithm 2 as printed."""
    defaults = dict(
        hidden=(),
        normalize=False,
        learn_std=False,
        init_std=0.3,
        discount=1.0,
        group_size=1,
        baseline="none",
        adapt_steps=1,
        adapt_lr=0.1,
        attacker_steps=20,
    )
    return MetaConfig(**(defaults | changes))


LEADER_FOLLOWER = Problem("leader-follower", leader_follower(), config(), 1.0, True)
BOUNDARY = Problem("two types, eta = 0.5", two_types(), config(adapt_lr=0.5), 1.0)
INTERIOR = Problem("two types, eta = 8", two_types(), config(adapt_lr=8.0), 1.0)
BELOW = Problem("double well below its threshold", double_well(0.8), config(), 0.5)
BEYOND = Problem("double well beyond its threshold", double_well(4.0), config(), 0.5)
MATRIX = Problem("matrix", matrix_game(), config(adapt_steps=0), 1.0)
PROBLEMS = (LEADER_FOLLOWER, BOUNDARY, INTERIOR, BELOW, BEYOND)


def with_steps(problem: Problem, found: Constants) -> Problem:
    """With Theorem D.7's step sizes; 1/L11 where mu is as good as 0 and L without bound."""
    step = 1 / found.L if found.mu > 0.01 else 1 / found.L11
    return problem._replace(
        config=problem.config.replace(attacker_lr=1 / found.L22, defender_lr=step)
    )
