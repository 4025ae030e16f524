"""Iterations, attacker steps and episodes that meta-SL takes for an accuracy: the theorems' rates.

    python experiments/complexity.py                # writes docs/results/complexity.csv and plots
    python experiments/complexity.py --toy --out /tmp/try.csv

Games with known answers, so every residual is exact, whatever noise the algorithm saw. Tables:

- constants: those of Assumption D.2, by exact second derivatives and PL ratios at random points;
  L = L11 + L12 L21 / mu, kappa_A = 1 / L22, kappa_D = 1 / L, or 1 / L11 where mu has no bound.
- outer: N_D against epsilon, Algorithm 2 with exact gradients. Two residuals: the defender's of
  Definition 4.1, and grad V, V(theta) being L_D at the response that maximises L_A in full. N_D is
  the first step below epsilon; slopes over the last decade that all seeds reach.
- tail: gradient ascent on -(1 + theta^2)^(-a/2), whose exponent is (a + 2) / (a + 1).
- sampled: `meta_sl_update` as it is, N_b growing and epsilon falling as N_b^(-1/2).
- inner: N_A against epsilon, exact ascent of the first type's attacker.
- batch: N_b against epsilon; z is grad_theta E_Q L_D at the attackers' last iterates minus grad V.
- danskin: central differences of V against grad_theta L_D with the response held fixed;
  `adaptation fixed` is line 12's response at rest, `full` maximises L_A.
- kinks: the same in finite games, where the best response jumps.

What was found is in docs/results/theory.md.
"""

import csv
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.flatten_util import ravel_pytree
from rich.console import Console
from rich.progress import Progress

from metasg_jax.config import MetaConfig
from metasg_jax.evaluation.plots import Line, Panel, log_log
from metasg_jax.evaluation.statistics import log_log_slope, t_interval
from metasg_jax.evaluation.tables import rich_table
from metasg_jax.game.rollout import Player
from metasg_jax.learning import init_state
from metasg_jax.learning.best_response import inner_loop
from metasg_jax.learning.meta_sl import meta_sl_update
from metasg_jax.learning.state import attacker_player, defender_player
from metasg_jax.programs.device import enable_compilation_cache
from metasg_jax.testing import (
    best_response,
    commitment_game,
    double_well,
    exact_meta_values,
    exact_values,
    leader_follower,
    leader_follower_answer,
    matrix_game,
    two_types,
)


@dataclasses.dataclass(frozen=True)
class Complexity:
    """What is run."""

    seeds: int = 8
    """Initial points, or runs of the algorithm with its own noise."""
    steps: int = 10000
    """Meta-steps with exact gradients, at the most."""
    sampled_steps: int = 200
    """Meta-steps with sampled gradients."""
    batches: tuple[int, ...] = (8, 32, 128, 512)
    """N_b of the runs with sampled gradients."""
    inner_batches: tuple[int, ...] = (4, 16, 64, 256, 1024)
    """N_b of the best responses."""
    inner_runs: int = 512
    """Best responses for each N_b and game."""
    toy: bool = False
    """The first case of each table, and a hundredth of all that: does it run?"""
    seed: int = 0
    """Seed of all randomness."""
    out: Path = Path("docs/results/complexity.csv")
    """Where the numbers go, in long form; plots beside it."""

    def sized(self) -> "Complexity":
        """With the toy's numbers, if it is one."""
        if not self.toy:
            return self
        return dataclasses.replace(
            self,
            seeds=2,
            steps=60,
            sampled_steps=4,
            batches=(4, 8),
            inner_batches=(4, 16),
            inner_runs=8,
        )

    def some(self, cases):
        """All of them, or a toy's first."""
        return cases[:1] if self.toy else cases


# --- A game, and everything exact about it ----------------------------------------------------


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


# --- 1. N_D against epsilon ---------------------------------------------------------------------


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


# --- 2. N_A against log 1/epsilon -----------------------------------------------------------------


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


# --- 3. N_b against epsilon -----------------------------------------------------------------------


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


# --- 4. Danskin's identity ------------------------------------------------------------------------


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


# --- Tables ---------------------------------------------------------------------------------------


def interval(slopes) -> str:
    """Mean and 95 % interval."""
    mean, half = t_interval(np.asarray(slopes))
    return f"{mean:.2f}" + (f" ± {half:.2f}" if np.isfinite(half) else "")


EPSILONS = np.geomspace(1e-1, 1e-5, 33)


def outer_part(args: Complexity, problems, found, progress: Progress):
    """N_D with exact gradients: (rows, panels)."""
    rows, lines = [], []
    task = progress.add_task("N_D, exact gradients", total=2 * len(problems))
    for problem in problems:
        for outer in ("debiased_exact", "fomaml"):
            runs = exact_runs(args, problem, outer)
            progress.advance(task)
            for i, kind in ((0, "Definition 4.1"), (2, "grad V")):
                values = runs[:, :, i]
                counts = first_below(values, EPSILONS)
                whole = np.isfinite(counts).all(axis=0)
                last = EPSILONS[whole].min() if whole.any() else np.nan
                decade = np.less_equal(EPSILONS, 10.01 * last) & whole
                slopes = [log_log_slope(1 / EPSILONS[decade], c[decade]) for c in counts]
                rows.append(
                    dict(
                        problem=problem.name,
                        outer=outer,
                        residual=kind,
                        slope=interval(slopes),
                        reached=last,
                        steps=float(np.median(counts[:, whole][:, -1])) if whole.any() else np.nan,
                        best=float(np.median(values.min(axis=1))),
                        end=float(np.median(values[:, -1])),
                        value=float(np.median(runs[:, -1, 3])),
                        kappa_D=float(problem.config.defender_lr),
                        L=found[problem.name].L,
                        mu=found[problem.name].mu,
                    )
                )
                if outer == "debiased_exact" and kind == "grad V":
                    lines.append(Line(problem.name, 1 / EPSILONS, counts))
    panels = [
        Panel("exact gradients, |grad V| <= eps", "1 / eps", "N_D", [*lines, theory(1, 2)]),
    ]
    return rows, panels


def theory(start: float, power: float, label: str = "slope") -> Line:
    """A line of a given slope, for the eye."""
    x = np.geomspace(10, 1e3, 5)
    return Line(f"{label} {power:g}", x, start * (x / 10) ** power, dashed=True)


def tail_part(powers=(0.1, 0.5, 2.0)):
    """The flat tail: (rows, panel)."""
    epsilons, rows, lines = np.geomspace(3e-2, 3e-4, 13), [], []
    for power in powers:
        counts = tail_run(power, epsilons)
        lower = epsilons <= 10.01 * epsilons.min()
        slope = log_log_slope(1 / epsilons[lower], counts[lower])
        rows.append(dict(a=power, slope=slope, known=(power + 2) / (power + 1)))
        lines.append(Line(f"a = {power:g}: slope {slope:.2f}", 1 / epsilons, counts))
    title = "a flat tail, V = -(1 + theta^2)^(-a/2)"
    return rows, Panel(title, "1 / eps", "N_D", [*lines, theory(100, 2)])


def sampled_part(args: Complexity, problems, progress: Progress):
    """N_D and the stationary residual with sampled gradients: (rows, panels)."""
    rows, by_batch, by_epsilon = [], [], []
    batches = np.array(args.batches, np.float64)
    task = progress.add_task("sampled gradients", total=len(problems) * len(args.batches))
    for problem, outer, scale, repeat in problems:
        epsilons = scale / np.sqrt(batches)
        longer = dataclasses.replace(args, sampled_steps=repeat * args.sampled_steps)
        stationary, counts, ends = [], [], []
        for batch, epsilon in zip(args.batches, epsilons, strict=True):
            found = sampled_runs(longer, problem, outer, batch)
            values = found[:, :, 2]
            ends.append(float(np.median(found[:, -1, 3])))
            stationary.append(np.sqrt((values[:, values.shape[1] // 2 :] ** 2).mean(axis=1)))
            counts.append(first_below(values, np.array([epsilon]))[:, 0])
            progress.advance(task)
        stationary, counts = np.array(stationary).T, np.array(counts).T
        whole = counts[np.isfinite(counts).all(axis=1)]
        rows.append(
            dict(
                problem=problem.name,
                outer=outer,
                epsilons=[float(e) for e in epsilons],
                counts=[float(c) for c in np.median(counts, axis=0)],
                reached=[float(r) for r in np.isfinite(counts).mean(axis=0)],
                slope=interval([log_log_slope(1 / epsilons, c) for c in whole])
                if 2 * len(whole) > len(counts)
                else "–",
                stationary=[float(s) for s in np.sqrt((stationary**2).mean(axis=0))],
                power=interval([log_log_slope(batches, s) for s in stationary]),
                value=ends,
            )
        )
        label = f"{problem.name}, {outer}"
        by_batch.append(Line(label, batches, stationary))
        by_epsilon.append(Line(label, 1 / epsilons, counts))
    guide = Line("slope -1/2", batches, 0.5 / np.sqrt(batches), dashed=True)
    return rows, [
        Panel("sampled gradients, N_b = c / eps^2", "1 / eps", "N_D", by_epsilon),
        Panel("the whole algorithm's residual", "N_b", "rms |grad V|", [*by_batch, guide]),
    ]


def inner_part(args: Complexity, problems, progress: Progress):
    """N_A against epsilon: (rows, panels)."""
    rows, linear, power = [], [], []
    task = progress.add_task("N_A", total=len(problems))
    epsilons = np.geomspace(1e-1, 1e-5, 25)
    for problem, is_linear in problems:
        o, size = oracle(problem), sizes(problem)[0]
        keys = jax.random.split(jax.random.key(args.seed + 3), args.seeds)
        thetas = problem.spread * jax.vmap(lambda k, n=size: jax.random.normal(k, (n,)))(keys)
        run = jax.jit(jax.vmap(lambda t, p=problem: ascent(p, t, args.steps)))
        found, last = run(thetas)
        found = np.asarray(found, np.float64)
        counts = first_below(found[:, :, 0], epsilons) - 1
        whole = np.isfinite(counts).all(axis=0) & (counts > 0).all(axis=0)
        small = whole & (epsilons <= 1e-2)
        if is_linear:
            slopes = [np.polyfit(np.log(1 / epsilons[small]), c[small], 1)[0] for c in counts] if (
                small.sum() > 1
            ) else []  # fmt: skip
            rates = [contraction(problem, o, t, p) for t, p in zip(thetas, last, strict=True)]
            known = f"{np.mean([1 / np.log(1 / r) for r in rates]):.2f}"
        else:
            slopes = [log_log_slope(1 / epsilons[small], c[small]) for c in counts]
            known = ""
        rows.append(
            dict(
                problem=problem.name,
                against="log 1/eps" if is_linear else "1/eps, log-log",
                slope=interval(slopes),
                known=known,
                last_z=float(np.median(found[:, -1, 1])),
            )
        )
        (linear if is_linear else power).append(Line(problem.name, 1 / epsilons, counts))
        progress.advance(task)
    return rows, [
        Panel("Gaussian attackers, |gradient| <= eps", "1 / eps", "N_A", linear, log_y=False),
        Panel("softmax attackers, |gradient| <= eps", "1 / eps", "N_A", [*power, theory(10, 1)]),
    ]


def contraction(problem: Problem, o: Oracle, theta, phi) -> float:
    """``rho = 1 - kappa_A mu`` of the first type, mu the least curvature at ``phi``."""
    adapted = o.adapt(theta, o.respond(theta, 0), 0)
    curvature = -np.linalg.eigvalsh(
        np.asarray(jax.jacobian(o.attacker_gradient, 1)(adapted, phi, 0), np.float64)
    )
    return 1 - float(problem.config.attacker_lr) * float(curvature[curvature > 1e-4].min())


def batch_part(args: Complexity, problems, progress: Progress):
    """N_b against epsilon: (rows, panel)."""
    rows, lines = [], []
    batches = np.array(args.inner_batches, np.float64)
    task = progress.add_task("N_b", total=len(problems) * len(batches))
    groups = min(8, args.inner_runs // 2)
    for problem in problems:
        errors = []
        for batch in args.inner_batches:
            errors.append(response_errors(args, problem, batch))
            progress.advance(task)
        mean = np.array([e.mean() for e in errors])
        parts = np.array([[g.mean() for g in np.array_split(e, groups)] for e in errors]).T
        kept = batches >= 16  # below, single steps overshoot
        slopes = np.array([log_log_slope(g[kept], batches[kept]) for g in parts])
        floor = response_floor(problem)
        clean = floor < 0.1 * mean[-1]  # else what is fitted is the floor
        rows.append(
            dict(
                problem=problem.name,
                errors=[float(m) for m in mean],
                floor=floor,
                slope=interval(-slopes) if clean else "–",
                squared=interval(-2 * slopes) if clean else "–",
            )
        )
        lines.append(Line(problem.name, 1 / mean, batches))
    guide = np.geomspace(10, 100, 4)
    lines.append(Line("slope 2", guide, 10 * (guide / 10) ** 2, dashed=True))
    return rows, Panel("best responses: E|z| <= eps", "1 / eps", "N_b", lines)


def shown(value: float) -> str:
    """Three digits."""
    return "–" if not np.isfinite(value) else f"{value:.3g}"


def main(args: Complexity) -> None:
    """Runs everything, prints the tables, and writes the plots and the numbers."""
    args = args.sized()
    enable_compilation_cache()
    console, begin, cpu = Console(soft_wrap=True), time.perf_counter(), time.process_time()
    with Progress(console=console) as progress:
        task = progress.add_task("constants", total=len(PROBLEMS) + 1)
        found, ready = {}, {}
        for problem in (*PROBLEMS, MATRIX):
            found[problem.name] = constants(
                problem, jax.random.key(args.seed + 5), 2 if args.toy else 200
            )
            ready[problem.name] = with_steps(problem, found[problem.name])
            progress.advance(task)

        def pick(problem, **changes):
            chosen = ready[problem.name]
            return chosen._replace(config=chosen.config.replace(**changes))

        outer, panels = outer_part(args, [pick(p) for p in args.some(PROBLEMS)], found, progress)
        tail, tail_panel = tail_part()
        noisy, slow = pick(LEADER_FOLLOWER, attacker_steps=5), ready[LEADER_FOLLOWER.name].config
        slow = pick(LEADER_FOLLOWER, attacker_steps=5, defender_lr=slow.defender_lr / 50)
        cases = [
            (problem, outer, scale, 1)
            for problem, scale in ((noisy, 0.6), (pick(INTERIOR, attacker_steps=5), 0.12))
            for outer in ("debiased", "debiased_exact", "fomaml")
        ]
        slow = slow._replace(name="leader-follower, kappa_D / 50")
        cases.append((slow, "debiased", 0.6, 10))
        sampled, sampled_panels = sampled_part(args, args.some(cases), progress)
        inner, inner_panels = inner_part(
            args,
            args.some(
                [(pick(LEADER_FOLLOWER), True), (pick(BELOW), True), (pick(BEYOND), True),
                 (pick(BOUNDARY), False), (pick(MATRIX), False)]
            ),
            progress,
        )  # fmt: skip
        plain = pick(LEADER_FOLLOWER, adapt_steps=0)._replace(name="leader-follower, no adaptation")
        wide = pick(LEADER_FOLLOWER, adapt_lr=0.3)._replace(name="leader-follower, eta = 0.3")
        batch, batch_panel = batch_part(args, args.some([plain, wide, pick(MATRIX)]), progress)
        dials = np.array([0.0, 0.05, 0.1, 0.2, 0.4])
        danskin = danskin_rows(dials[:2] if args.toy else dials, (0.0,) if args.toy else (0.0, 0.1))
        kinks = kink_rows(
            {f"matrix, dial {d:g}": dialled_matrix(d) for d in (0.0, 0.1, 0.2, 0.4)}
            | {"commitment": commitment_game()}
        )
    seconds = time.perf_counter() - begin, time.process_time() - cpu
    args.out.parent.mkdir(parents=True, exist_ok=True)
    stem = args.out.with_suffix("")
    log_log([*panels, tail_panel, *sampled_panels], Path(f"{stem}-outer.png"))
    log_log([*inner_panels, batch_panel, danskin_panel(danskin, kinks)], Path(f"{stem}-inner.png"))
    tables = dict(
        constants=[dict(problem=n, **c._asdict(), L=c.L) for n, c in found.items()],
        outer=outer, tail=tail, sampled=sampled, inner=inner, batch=batch, danskin=danskin,
        kinks=kinks,
    )  # fmt: skip
    with args.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["table", "row", "quantity", "value"])
        for table, rows in tables.items():
            for i, row in enumerate(rows):
                writer.writerows([table, i, q, v] for q, v in row.items())
    for name, (header, body) in formatted(tables).items():
        console.print(rich_table(name, header, body, numbers=False))
    spent = f"{seconds[0]:.0f} s, {seconds[1]:.0f} s of processor time"
    console.print(f"{spent}; written to {args.out}, plots beside it")


def danskin_panel(danskin: list[dict], kinks: list[dict]) -> Panel:
    """The identity's error against the dial."""
    lines = []
    for eta, response in sorted({(r["eta"], r["response"]) for r in danskin}):
        if eta == 0 and response == "full":
            continue  # without adaptation there is one response
        some = [r for r in danskin if (r["eta"], r["response"]) == (eta, response) and r["dial"]]
        name = f"leader-follower, eta = {eta:g}" + (f", {response}" if eta else "")
        lines.append(
            Line(name, np.array([r["dial"] for r in some]), np.array([r["error"] for r in some]))
        )
    known = [r for r in danskin if r["eta"] == 0 and r["response"] == "full" and r["dial"]]
    x = np.array([r["dial"] for r in known])
    lines.append(Line("known, eta = 0", x, np.array([r["analytic"] for r in known]), dashed=True))
    dialled = [r for r in kinks if r["game"].startswith("matrix") and r["jump"] > 1e-4]
    dials = np.array([float(r["game"].split()[-1]) for r in dialled])
    lines.append(Line("matrix: jump of V", dials, np.array([r["jump"] for r in dialled])))
    return Panel("Danskin's identity off strict competitiveness", "dial", "error", lines)


def series(values, digits: str = ".3g") -> str:
    """Numbers with commas between; a dash where there is none."""
    return ", ".join(format(v, digits) if np.isfinite(v) else "–" for v in values)


def formatted(tables: dict[str, list[dict]]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Header and rows of each table: columns' names, and where their cells come from."""
    branches = {"debiased_exact": "debiased", "fomaml": "fomaml"}

    def numbers(*names):
        return [(name, lambda r, n=name: shown(r[n])) for name in names]

    def text(name, key):
        return name, lambda r: str(r[key]).replace("nan", "–")

    def one(name, key):
        return name, lambda r: shown(r[key])

    def many(name, key, digits=".3g"):
        return name, lambda r: series(r[key], digits)

    columns = {
        "constants": [text("game", "problem"), *numbers("mu", "L11", "L12", "L21", "L22", "L")],
        "outer": [
            text("game", "problem"),
            ("branch", lambda r: branches[r["outer"]]),
            *(text(n, n) for n in ("residual", "slope")),
            one("least eps that all reach", "reached"),
            one("N_D there", "steps"),
            one("residual at the end", "end"),
            ("V at the end", lambda r: f"{r['value']:.4f}"),
            one("kappa_D", "kappa_D"),
        ],
        "tail": [one("a", "a"), one("slope", "slope"), one("known", "known")],
        "sampled": [
            text("game", "problem"),
            text("update", "outer"),
            many("eps", "epsilons", ".2g"),
            many("N_D (median)", "counts"),
            many("runs that reach eps", "reached", ".0%"),
            text("slope of N_D", "slope"),
            many("rms of grad V, second half", "stationary", ".2g"),
            text("its power of N_b", "power"),
            many("V at the end", "value"),
        ],
        "inner": [
            text("game", "problem"),
            text("N_A against", "against"),
            text("slope", "slope"),
            ("1 / log(1 / rho)", lambda r: r["known"] or "–"),
            one("z in the end", "last_z"),
        ],
        "batch": [
            text("game", "problem"),
            many("mean of z at each N_b", "errors"),
            one("in the limit", "floor"),
            text("slope: z <= eps", "slope"),
            text("slope: z <= C eps^2", "squared"),
        ],
        "danskin": [
            *(one(n, n) for n in ("eta", "dial")),
            text("response", "response"),
            one("error", "error"),
            one("known", "analytic"),
            one("gradient of V", "gradient"),
        ],
        "kinks": [
            text("game", "game"),
            one("jump at P(first row)", "kink"),
            one("error below", "below"),
            one("error above", "above"),
            one("error at", "at"),
            one("jump of V", "jump"),
        ],
    }
    return {
        name: ([n for n, _ in each], [[c(r) for _, c in each] for r in tables[name]])
        for name, each in columns.items()
    }


if __name__ == "__main__":
    main(tyro.cli(Complexity, description=__doc__))
