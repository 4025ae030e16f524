"""Algorithm 2 on those games: residuals over meta-steps, attacker steps and sizes of batches."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from theory.exact import Oracle, Problem, oracle, over_types, residuals, sizes, value_gradient
from theory.settings import Complexity

from metasg_jax.learning import init_state
from metasg_jax.learning.best_response import inner_loop
from metasg_jax.learning.meta_sl import meta_sl_update
from metasg_jax.learning.state import attacker_player, defender_player


def first_below(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The first step, from 1, where values f64[S, T] are at most each level: f64[S, n] or NaN."""
    reached = values[:, :, None] <= levels[None, None]
    first = reached.argmax(axis=1) + 1.0
    return np.where(reached.any(axis=1), first, np.nan)


def exact_run(problem: Problem, outer: str, theta, num_steps: int) -> jax.Array:
    """Algorithm 2 with exact gradients in place of sampled ones: residuals f32[T, 4].

    ``debiased_exact``: theta moves by grad L_D; ``fomaml``: by grad J_D at the adapted policy.
    """
    o, settings = oracle(problem), problem.config
    kinds = range(o.weights.shape[0])

    def step(carry, _):
        theta, phis = carry
        adapted = [o.adapt(theta, phis[k], k) for k in kinds]

        def ascend(k):
            def once(_, phi):
                return phi + settings.attacker_lr * o.attacker_gradient(adapted[k], phi, k)

            return jax.lax.fori_loop(0, settings.attacker_steps, once, phis[k])

        phis = jnp.stack([ascend(k) for k in kinds])
        if outer == "fomaml":
            gradient = over_types(o.weights, lambda k: o.final_gradient(adapted[k], phis[k], k))
        else:
            gradient = over_types(o.weights, lambda k: o.leader_gradient(theta, phis[k], k))
        out = residuals(o, theta, phis)
        return (theta + settings.defender_lr * gradient, phis), out

    phis = jnp.zeros((len(kinds), sizes(problem)[1]))
    return jax.lax.scan(step, (theta, phis), None, length=num_steps)[1]


def exact_runs(args: Complexity, problem: Problem, outer: str) -> np.ndarray:
    """Residuals f64[S, T, 4] from the seeds' initial points."""
    keys = jax.random.split(jax.random.key(args.seed), args.seeds)
    size = sizes(problem)[0]
    thetas = problem.spread * jax.vmap(lambda k: jax.random.normal(k, (size,)))(keys)
    run = jax.jit(jax.vmap(lambda theta: exact_run(problem, outer, theta, args.steps)))
    return np.asarray(run(thetas), np.float64)


def tail_run(power: float, epsilons: np.ndarray, theta: float = 1.0) -> np.ndarray:
    """N_D of gradient ascent on ``V = -(1 + theta^2)^(-a/2)``, step 1/L, for each epsilon.

    V is bounded, smooth, and has no stationary point but infinity, where its gradient falls as
    ``theta^-(a+1)``: N_D grows as ``epsilon^-(a+2)/(a+1)``, the exponent 2 being approached for
    flat tails (Cartis, Gould and Toint, 2010).
    """
    out, i, step = [], 0, 1 / (power * (1 + power))
    ordered = np.sort(epsilons)[::-1]
    while len(out) < len(ordered):
        gradient = power * theta * (1 + theta**2) ** (-power / 2 - 1)
        i += 1
        while len(out) < len(ordered) and gradient <= ordered[len(out)]:
            out.append(i)
        theta = theta + step * gradient
    return np.array(out, np.float64)


def sampled_run(problem: Problem, key, batch: int, outer: str, num_steps: int) -> jax.Array:
    """Algorithm 2 as the learner runs it: exact residuals f32[T, 4] along the way."""
    o, game = oracle(problem), problem.game
    settings = problem.config.replace(num_groups=batch, outer=outer, baseline="leave_one_out")
    key_start, key_run = jax.random.split(key)
    state = init_state(jax.random.key(0), game, settings)
    theta, back = ravel_pytree(state.theta)
    theta = problem.spread * jax.random.normal(key_start, theta.shape)
    state = state.replace(theta=back(theta))

    def step(state, i):
        out, _ = meta_sl_update(jax.random.fold_in(key_run, i), state, game, settings)
        # as in exact_run: the meta policy with the best responses found from it
        phis = jax.vmap(lambda p: ravel_pytree(p)[0])(out.phi)
        return out, residuals(o, ravel_pytree(state.theta)[0], phis)

    return jax.lax.scan(step, state, jnp.arange(num_steps))[1]


def sampled_runs(args: Complexity, problem: Problem, outer: str, batch: int) -> np.ndarray:
    """Residuals f64[S, T, 4] over seeds."""
    keys = jax.random.split(jax.random.key(args.seed + 1), args.seeds)
    run = jax.jit(jax.vmap(lambda k: sampled_run(problem, k, batch, outer, args.sampled_steps)))
    return np.asarray(run(keys), np.float64)


def ascent(problem: Problem, theta, num_steps: int) -> tuple[jax.Array, jax.Array]:
    """Exact best responses of the first type's attacker from phi = 0: (f32[N, 2], the last phi).

    The attacker's |gradient|, the adaptation fixed, and ``|z|``, by which the defender's gradient
    for this type is off (Lemma 4.6), before each step.
    """
    o, settings = oracle(problem), problem.config
    phi = jnp.zeros((sizes(problem)[1],))
    adapted = o.adapt(theta, o.respond(theta, 0), 0)
    best = o.final_gradient(adapted, o.respond(adapted, 0), 0)

    def step(phi, _):
        slope = o.attacker_gradient(adapted, phi, 0)
        z = o.final_gradient(adapted, phi, 0) - best
        out = jnp.stack([jnp.linalg.norm(slope), jnp.linalg.norm(z)])
        return phi + settings.attacker_lr * slope, out

    phi, out = jax.lax.scan(step, phi, None, length=num_steps)
    return out, phi


def contraction(problem: Problem, o: Oracle, theta, phi) -> float:
    """``rho = 1 - kappa_A mu`` of the first type, mu the least curvature at ``phi``."""
    adapted = o.adapt(theta, o.respond(theta, 0), 0)
    curvature = -np.linalg.eigvalsh(
        np.asarray(jax.jacobian(o.attacker_gradient, 1)(adapted, phi, 0), np.float64)
    )
    return 1 - float(problem.config.attacker_lr) * float(curvature[curvature > 1e-4].min())


def response_errors(args: Complexity, problem: Problem, batch: int) -> np.ndarray:
    """|z| f64[R] after the learner's own inner loop of N_A steps on batches of N_b.

    z is grad_theta E_Q L_D at the attackers' last iterates minus grad V (Lemma 4.6).
    """
    o, game = oracle(problem), problem.game
    settings = problem.config.replace(num_groups=batch, baseline="leave_one_out")
    state = init_state(jax.random.key(0), game, settings)
    flat_theta, back = ravel_pytree(state.theta)
    theta = 0.5 * jnp.cos(1.0 + jnp.arange(flat_theta.size))
    state = state.replace(theta=back(theta))
    truth = value_gradient(o, theta)

    def one(key):
        def final(k):
            opt = jax.tree.map(lambda leaf: leaf[k], state.opt_A)
            inner = inner_loop(
                jax.random.fold_in(key, k), game, game.prior[k], jnp.ones((), bool),
                defender_player(state, game, settings),
                attacker_player(state, game, settings, k), opt, settings,
            )  # fmt: skip
            return ravel_pytree(inner.attacker)[0]

        found = over_types(o.weights, lambda k: o.leader_gradient(theta, final(k), k))
        return jnp.linalg.norm(found - truth)

    keys = jax.random.split(jax.random.key(args.seed + 2), args.inner_runs)
    return np.asarray(jax.jit(jax.vmap(one))(keys), np.float64)


def response_floor(problem: Problem) -> float:
    """|z| in the limit of large batches: that of N_A exact steps, from the same point."""
    o, settings = oracle(problem), problem.config
    theta_size, phi_size = sizes(problem)
    theta = 0.5 * jnp.cos(1.0 + jnp.arange(theta_size))
    state = init_state(jax.random.key(0), problem.game, settings)

    @jax.jit
    def error():
        def final(k):
            start = attacker_player(state, problem.game, settings, k).params
            phi = ravel_pytree(start)[0].reshape(phi_size)
            adapted = o.adapt(theta, phi, k)

            def once(_, phi):
                return phi + settings.attacker_lr * o.attacker_gradient(adapted, phi, k)

            return jax.lax.fori_loop(0, settings.attacker_steps, once, phi)

        found = over_types(o.weights, lambda k: o.leader_gradient(theta, final(k), k))
        return jnp.linalg.norm(found - value_gradient(o, theta))

    return float(error())
