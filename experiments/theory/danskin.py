"""Danskin's identity: the gradient of V beside that with the response held fixed."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from theory.exact import Problem, config, oracle, over_types, sizes

from metasg_jax.testing import leader_follower, leader_follower_answer, matrix_game


def central_difference(fun: Callable, x: np.ndarray, width: float) -> np.ndarray:
    """Gradient of a scalar function at x f64[P]."""
    out = np.zeros(len(x))
    for i in range(len(x)):
        step = np.zeros(len(x))
        step[i] = width
        out[i] = (float(fun(x + step)) - float(fun(x - step))) / (2 * width)
    return out


def danskin_rows(dials: np.ndarray, etas=(0.0, 0.1, 0.3)) -> list[dict]:
    """Finite differences of V against the first-order gradient on the leader-follower game."""
    rows = []
    for eta in etas:
        for dial in dials:
            game = leader_follower(dial=float(dial))
            settings = config(adapt_steps=int(eta > 0), adapt_lr=eta)
            o = oracle(Problem("", game, settings, 1.0, True))
            size = sizes(Problem("", game, settings))[0]
            theta = jnp.asarray(0.5 * np.cos(1.0 + np.arange(size)), jnp.float32)

            def settled(theta, k, o=o):
                """The response to the policy as adapted to it: line 12 until nothing moves."""

                def once(_, phi):
                    return o.respond(o.adapt(theta, phi, k), k)

                return jax.lax.fori_loop(0, 30, once, o.respond(theta, k))

            for name, respond in (("adaptation fixed", settled), ("full", o.respond_fully)):

                @jax.jit
                def value(theta, o=o, respond=respond):
                    return over_types(o.weights, lambda k: o.values(theta, respond(theta, k), k)[0])

                first = over_types(
                    o.weights,
                    lambda k, o=o, r=respond, t=theta: o.leader_gradient(t, r(t, k), k),
                )
                measured = central_difference(
                    lambda x, v=value: v(jnp.asarray(x, jnp.float32)), np.asarray(theta), 0.25
                )
                known = leader_follower_answer(game).danskin_error if eta == 0 else [np.nan]
                rows.append(
                    dict(
                        eta=eta,
                        dial=float(dial),
                        response=name,
                        error=float(np.linalg.norm(measured - np.asarray(first, np.float64))),
                        analytic=float(np.linalg.norm(known)),
                        gradient=float(np.linalg.norm(measured)),
                    )
                )
    return rows


def dialled_matrix(dial: float):
    """The zero-sum matrix game with ``dial [[1, 0], [0, 0]]`` added to the leader's payoffs."""
    zero_sum = np.array([[0.6, -0.4], [-0.2, 0.4]])
    return matrix_game(zero_sum + dial * np.array([[1.0, 0.0], [0.0, 0.0]]), -zero_sum)


def kink_rows(games: dict[str, object], width: float = 1e-2) -> list[dict]:
    """Finite games: the identity's error off and on the point where the best response jumps."""
    rows = []
    for name, game in games.items():
        problem = Problem(name, game, config(adapt_steps=0))
        o = oracle(problem)
        r_a = np.asarray(game.prior.types.reward_A, np.float64)[0, 0]
        gain = r_a[:, 1] - r_a[:, 0]
        kink = gain[1] / (gain[1] - gain[0])  # the first row's probability there

        def at(p):
            return np.array([np.log1p(-p) - np.log(p)])

        def value(x, o=o):
            theta = jnp.asarray(x, jnp.float32)
            return o.values(theta, o.respond(theta, 0), 0)[0]

        def error(p, o=o, value=value):
            theta = jnp.asarray(at(p), jnp.float32)
            first = float(o.leader_gradient(theta, o.respond(theta, 0), 0)[0])
            return abs(float(central_difference(value, at(p), width)[0]) - first)

        below, above = (float(value(at(kink + s * 1e-4))) for s in (-1, 1))
        rows.append(
            dict(
                game=name,
                kink=kink,
                below=error(0.6 * kink),
                above=error(kink + 0.4 * (1 - kink)),
                at=error(kink),
                jump=abs(above - below),
            )
        )
    return rows
