"""What the gradient estimators are worth: their bias and their variance per FL round.

    python experiments/estimators.py                    # writes docs/results/estimators.csv
    python experiments/estimators.py --toy --out /tmp/try.csv

Part 1, on games where everything can be enumerated: meta gradients of both objectives (adaptation
by a sampled gradient, and by the exact one) against the exact derivatives. Part 2: estimates of
grad J from episodes, on games with known gradients and on the FL game. `error / SE` is the distance
of the mean from the exact gradient in standard errors, about 1 for an unbiased estimator; `rounds
for SNR 1` how many rounds make an estimate whose noise is as large as the gradient (trace of the
covariance times the rounds of an estimate over the gradient's squared norm). The FL game's gradient
is not known: its stand-in is the mean of the two unbiased estimators of least variance, by their
precision. What was found is in docs/results/theory.md.
"""

import csv
import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.flatten_util import ravel_pytree
from rich.console import Console
from rich.progress import Progress

from metasg_jax.config import FLConfig, GameConfig, MetaConfig
from metasg_jax.data import load
from metasg_jax.evaluation.tables import rich_table
from metasg_jax.game.make import make_game
from metasg_jax.game.rollout import Player
from metasg_jax.learning import init_state
from metasg_jax.learning.best_response import inner_loop
from metasg_jax.learning.debiased import meta_gradient
from metasg_jax.learning.estimators import ESTIMATORS, policy_gradient
from metasg_jax.learning.meta_sl import OUTER, debiased
from metasg_jax.learning.outer import scan_types, weighted_mean
from metasg_jax.learning.state import MetaSGState, attacker_player, defender_player, policies
from metasg_jax.programs.device import enable_compilation_cache
from metasg_jax.testing import (
    bandit,
    exact_meta_values,
    exact_values,
    leader_follower,
    matrix_game,
    quadratic_fl,
    two_types,
)

CHUNK = 1 << 14
DISCOUNT = 0.99


@dataclasses.dataclass(frozen=True)
class Estimators:
    """What is run."""

    draws: int = 1 << 22
    """The most independent estimates of a meta gradient; fewer where the precision is reached."""
    precision: float = 0.007
    """Relative standard error at which drawing stops."""
    game_draws: int = 1 << 16
    """Estimates of grad J on a game with a known gradient, for each estimator."""
    fl_draws: int = 256
    """Estimates on the FL game by scores, for each type and deviation; evolution takes half as
    many, pathwise derivatives a sixteenth. 0 leaves the FL game out."""
    horizon: int = 40
    """Rounds of the FL game."""
    toy: bool = False
    """The first case of each table, a few draws, no FL game: does it run?"""
    seed: int = 0
    """Seed of all draws."""
    out: Path = Path("docs/results/estimators.csv")
    """Where the numbers go, in long form."""

    def sized(self) -> "Estimators":
        """With the toy's numbers, if it is one."""
        few = dict(draws=64, game_draws=64, fl_draws=0) if self.toy else {}
        return dataclasses.replace(self, **few)

    def some(self, cases):
        """All of them, or a toy's first."""
        return cases[:1] if self.toy else cases


class Moments(NamedTuple):
    """Moments of independent estimates of a vector f64[P].

    Attributes:
        mean: f64[P].
        variance: f64[P], of one estimate.
        count: how many there were.
    """

    mean: np.ndarray
    variance: np.ndarray
    count: int

    @property
    def trace(self) -> float:
        """The trace of the covariance of one estimate."""
        return float(self.variance.sum())

    @property
    def error(self) -> float:
        """Root mean squared distance of the mean from its expectation."""
        return float(np.sqrt(self.trace / self.count))


def sampler(estimate: Callable, chunk: int = CHUNK) -> Callable:
    """Draws moments of vectors over independent keys; compiles once.

    Args:
        estimate: (key, argument) -> {name: f32[P]}.
        chunk: draws in a call, all side by side.

    Returns:
        ``(key, most, precision=0, argument=0) -> {name: Moments}``, which stops after ``most``
        draws or where each mean's error is below ``precision`` times its norm, differences apart.
    """

    @jax.jit
    def many(key, argument):
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(chunk))
        values = jax.vmap(lambda k: estimate(k, argument))(keys)

        def reduce(v):
            mean = v.mean(axis=0)
            return mean, ((v - mean[None]) ** 2).mean(axis=0)

        return jax.tree.map(reduce, values)

    def draw(key, most: int, precision: float = 0.0, argument=0) -> dict[str, Moments]:
        count, total, square, out = 0, {}, {}, {}
        while count < most:
            parts = many(jax.random.fold_in(key, count), argument)
            for name, (mean, variance) in parts.items():
                mean, variance = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
                total[name] = total.get(name, 0.0) + mean * chunk
                square[name] = square.get(name, 0.0) + (variance + mean**2) * chunk
            count += chunk
            for name in total:
                spread = np.maximum(square[name] - total[name] ** 2 / count, 0.0)
                out[name] = Moments(total[name] / count, spread / max(count - 1, 1), count)
            needed = [m for name, m in out.items() if " minus " not in name]
            if all(m.error < precision * np.linalg.norm(m.mean) for m in needed):
                break
        return out

    return draw


def flat(tree) -> jax.Array:
    """All leaves as one vector."""
    return ravel_pytree(tree)[0]


def compare(moments: Moments, truth: np.ndarray) -> dict[str, float]:
    """Estimates of a vector against it: bias, its size in standard errors, cosine."""
    norm = np.linalg.norm(truth)
    unit = truth / norm
    off = np.linalg.norm(moments.mean - truth)
    return {
        "along": float(moments.mean @ unit),
        "error": moments.error,
        "exact": float(norm),
        "sigmas": float(off / moments.error),
        "bias": float(off / norm),
        "cosine": float(moments.mean @ unit / np.linalg.norm(moments.mean)),
        "trace": moments.trace,
        "count": moments.count,
    }


# --- Part 1: meta gradients -------------------------------------------------------------------


class Setting(NamedTuple):
    """A game, where its players stand, and how the defender adapts."""

    name: str
    game: object
    theta: tuple[float, ...]
    phi: tuple[float, ...]
    config: MetaConfig


def settings() -> list[Setting]:
    """What part 1 enumerates."""
    base = MetaConfig(
        group_size=1,
        baseline="none",
        normalize=False,
        hidden=(),
        attacker_steps=0,
        outer="debiased",
        discount=1.0,
    )
    games = [
        ("bandit", bandit(), (0.3,), (), 0.5),
        ("matrix", matrix_game(), (0.3,), (0.8,), 2.0),
        ("two types", two_types(), (0.3, -0.2), (0.5, 0.5), 2.0),
    ]
    out = []
    for name, game, theta, phi, eta in games:
        for steps, batch in ((1, 1), (1, 2), (2, 1), (2, 2)):
            if name == "two types" and (steps, batch) == (2, 2):
                continue  # 528^2 sequences of batches of 32 episodes
            config = base.replace(adapt_steps=steps, num_groups=batch, adapt_lr=eta)
            out.append(Setting(name, game, theta, phi, config))
    return out


def state_of(setting: Setting, config: MetaConfig) -> MetaSGState:
    """A learner whose policies have the setting's logits; all types' attackers the same."""
    state = init_state(jax.random.key(0), setting.game, config)
    theta = jax.tree.map(
        lambda leaf: jnp.reshape(jnp.array(setting.theta), leaf.shape), state.theta
    )

    def attacker(leaf):
        one = jnp.array(setting.phi, jnp.float32).reshape(leaf.shape[1:])
        return jnp.broadcast_to(one[None], leaf.shape)

    return state.replace(theta=theta, phi=jax.tree.map(attacker, state.phi))


def over_types(game, value: Callable) -> jax.Array:
    """E_Q of a function of (type, index)."""
    q = game.prior.probabilities
    return sum(q[i] * value(game.prior[i], i) for i in range(len(game.prior)))


def exact_gradient(game, state: MetaSGState, config: MetaConfig, objective: str) -> np.ndarray:
    """Exact gradient f64[P] of E_Q L_D in theta."""

    def value(theta):
        defender = defender_player(state.replace(theta=theta), game, config)

        def one(xi, i):
            attacker = attacker_player(state, game, config, i)
            return exact_meta_values(game, xi, defender, attacker, config, objective)[0]

        return over_types(game, one)

    return np.asarray(flat(jax.jit(jax.grad(value))(state.theta)), np.float64)


def meta_estimates(key, state: MetaSGState, game, config: MetaConfig) -> dict[str, jax.Array]:
    """Every meta gradient from the same episodes, as the learner's outer updates make it.

    ``reptile`` moves theta by ``sum eta g_k + kappa_D g_l``; divided by ``l eta + kappa_D``, with
    kappa_D = eta, it is an average of gradients.
    """
    policy_d, policy_a = policies(game, config)
    weights = game.prior.probabilities

    def play(xi, phi, opt):
        key_type = jax.random.fold_in(key, xi.index)
        defender = Player(state.theta, state.normalizer, policy_d)
        attacker = Player(phi, state.normalizer_A, policy_a)
        return inner_loop(
            key_type, game, xi, jnp.zeros((), bool), defender, attacker, opt, config, True
        )

    inner = scan_types(game, play, weights, state.phi, state.opt_A, skip_absent=False)
    updates = OUTER | {"printed": functools.partial(debiased, objective="printed")}
    out = {}
    for name, update in updates.items():
        scale = 1.0
        used = config.replace(defender_lr=1.0)
        if name == "reptile":
            used = config.replace(defender_lr=config.adapt_lr)
            scale = 1 / ((config.adapt_steps + 1) * config.adapt_lr)
        theta, _ = update(policy_d, state, inner, weights, used)
        out[name] = scale * flat(optax.tree.sub(theta, state.theta))
    return out | {"printed minus debiased": out["printed"] - out["debiased"]}


def exact_path_estimate(key, state: MetaSGState, game, config: MetaConfig) -> jax.Array:
    """The estimate for the exact objective, the policy having been adapted by exact gradients."""
    estimate, leads = ESTIMATORS[config.gradient], jnp.ones((), bool)

    def play(xi, phi):
        keys = jax.random.split(jax.random.fold_in(key, xi.index), config.adapt_steps + 1)
        player = defender_player(state, game, config)
        attacker = attacker_player(state, game, config, 0).replace(params=phi)

        def value(params):
            return exact_values(game, xi, player.replace(params=params), attacker, config.discount)[
                0
            ]

        batches, path = [], []
        for i in range(config.adapt_steps):
            batches.append(estimate(keys[i], game, xi, player, attacker, leads, config)[2].defender)
            moved = optax.tree.add_scale(
                player.params, config.adapt_lr, jax.grad(value)(player.params)
            )
            path.append(moved)
            player = player.replace(params=moved)
        final = estimate(keys[-1], game, xi, player, attacker, leads, config)[2].defender
        batches, path = (jax.tree.map(lambda *a: jnp.stack(a), *each) for each in (batches, path))
        return meta_gradient(
            player.policy, state.theta, batches, final, jnp.zeros(()), config, "exact", path
        )

    gradients = scan_types(game, play, game.prior.probabilities, state.phi, skip_absent=False)
    return flat(weighted_mean(game.prior.probabilities, gradients))


LABELS = {
    "debiased": "debiased (sampled)",
    "exact path": "debiased (exact), exact adaptation",
    "debiased_exact": "debiased (exact), sampled adaptation",
    "printed": "(C4) with (C5) as printed",
    "fomaml": "fomaml",
    "reptile": "reptile, per unit of step size",
}
NAMES = ("fomaml", "reptile", "debiased_exact", "debiased", "printed")
OWN = {"exact path": "exact", "debiased_exact": "exact"}


def meta_rows(args: Estimators, progress: Progress) -> list[dict]:
    """Part 1's numbers, a row an estimator and setting."""
    rows = []
    cases = args.some(settings())
    task = progress.add_task("meta gradients", total=len(cases))
    for i, setting in enumerate(cases):
        game, config = setting.game, setting.config
        state = state_of(setting, config)
        exact = {o: exact_gradient(game, state, config, o) for o in ("sampled", "exact")}

        def estimate(key, _, state=state, game=game, config=config):
            key_learner, key_path = jax.random.split(key)
            out = meta_estimates(key_learner, state, game, config)
            return out | {"exact path": exact_path_estimate(key_path, state, game, config)}

        key = jax.random.fold_in(jax.random.key(args.seed), i)
        drawn = sampler(estimate, min(CHUNK, args.draws))(key, args.draws, args.precision)
        paired = drawn.pop("printed minus debiased")
        for name, moments in drawn.items():
            row = compare(moments, exact[OWN.get(name, "sampled")])
            if name == "printed":
                row["paired"] = float(np.linalg.norm(paired.mean)) / paired.error
            rows.append(
                dict(
                    game=setting.name,
                    steps=config.adapt_steps,
                    batch=config.num_groups,
                    estimator=name,
                    objective=OWN.get(name, "sampled"),
                    **row,
                )
            )
        progress.advance(task)
    return rows


def batch_rows(args: Estimators, progress: Progress) -> list[dict]:
    """As the batch grows: the exact objective's estimator with sampled adaptation, and variances.

    With four times the settings' step size, so that the two objectives are far apart.
    """
    rows = []
    batches = args.some((1, 4, 16, 64))
    cases = [s for s in settings() if (s.config.adapt_steps, s.config.num_groups) == (1, 1)]
    cases = args.some(cases)
    task = progress.add_task("growing batches", total=len(cases) * len(batches))
    for i, setting in enumerate(cases):
        for batch in batches:
            game, config = setting.game, setting.config
            config = config.replace(num_groups=batch, adapt_lr=4 * config.adapt_lr)
            state = state_of(setting, config)
            truth = exact_gradient(game, state, config, "exact")

            def estimate(key, _, state=state, game=game, config=config):
                out = meta_estimates(key, state, game, config)
                return {name: out[name] for name in ("fomaml", "debiased", "debiased_exact")}

            key = jax.random.fold_in(jax.random.key(args.seed + 1), 100 * i + batch)
            most = max(args.draws // (2 * batch), 1)
            chunk = min(max(CHUNK // batch, 1), most)
            moments = sampler(estimate, chunk)(key, most)
            rows.append(
                dict(
                    game=setting.name,
                    eta=float(config.adapt_lr),
                    batch=batch,
                    **compare(moments["debiased_exact"], truth),
                    trace_fomaml=moments["fomaml"].trace,
                    trace_debiased=moments["debiased"].trace,
                )
            )
            progress.advance(task)
    return rows


# --- Part 2: gradients of J -------------------------------------------------------------------


class Method(NamedTuple):
    """An estimator and what of it is set; ``rounds`` is counted from the batch it plays."""

    label: str
    gradient: str
    settings: dict


SCORES = [
    Method(f"score, {estimator}, {baseline}", "score", dict(estimator=estimator, baseline=baseline))
    for estimator in ("return", "return_to_go")
    for baseline in ("none", "batch", "leave_one_out", "group")
]


def others(finite: bool, windows: tuple[int, ...]) -> list[Method]:
    """The estimators that are no scores."""
    out = [
        Method(f"evolution, perturbation {s}", "evolution", dict(perturbation=s))
        for s in (0.05, 0.5)
    ]
    if not finite:
        out += [
            Method(
                f"pathwise, {f'window {w}' if w else 'whole episode'}", "pathwise", dict(window=w)
            )
            for w in windows
        ]
    return out


def side_estimates(key, game, xi, defender, attacker, leads: bool, config, methods):
    """{label: f32[P]} of one side's grad J; all scores from the same episodes."""
    kinds = {m.gradient for m in methods}
    if kinds == {"score"}:
        played = ESTIMATORS["score"](key, game, xi, defender, attacker, jnp.bool_(leads), config)[2]
        side, player = (played.defender, defender) if leads else (played.attacker, attacker)
        return {
            m.label: flat(
                policy_gradient(player.policy, player.params, side, config.replace(**m.settings))
            )
            for m in methods
        }
    (method,) = methods
    used = config.replace(gradient=method.gradient, **method.settings)
    theta, phi, _ = ESTIMATORS[method.gradient](
        key, game, xi, defender, attacker, jnp.bool_(leads), used
    )
    return {method.label: flat(theta if leads else phi)}


def combine(parts: list[Moments], q) -> Moments:
    """Moments of the average over the prior of independent estimates, one a type."""
    mean = sum(w * m.mean for w, m in zip(q, parts, strict=True))
    variance = sum(w**2 * m.variance for w, m in zip(q, parts, strict=True))
    return Moments(mean, variance, min(m.count for m in parts))


def gradient_row(moments: Moments, truth: np.ndarray, rounds: int) -> dict:
    """Bias, and the number of rounds for a signal-to-noise ratio of one."""
    row = compare(moments, truth)
    return row | {"rounds": rounds * row["trace"] / row["exact"] ** 2}


GAMES = [
    ("two types", two_types(), ()),
    ("leader-follower", leader_follower(), (0,)),
    ("quadratic FL, H = 4", quadratic_fl(horizon=4), (0, 2, 1)),
]


def game_config(game) -> MetaConfig:
    """A batch of 2 groups of 4, as on the FL game; affine or tabular policies."""
    return MetaConfig(
        group_size=4,
        num_groups=2,
        hidden=(),
        normalize=False,
        discount=DISCOUNT,
        adapt_lr=0.1,
        attacker_steps=0,
        outer="debiased",
    )


def game_players(game, config: MetaConfig):
    """A state away from stationary points: logits or means at small distinct numbers."""
    state = init_state(jax.random.key(0), game, config)

    def spread(tree, scale):
        vector, back = ravel_pytree(tree)
        return back(vector + scale * jnp.cos(1.0 + jnp.arange(vector.size)))

    return state.replace(theta=spread(state.theta, 0.3), phi=spread(state.phi, 0.3))


def exact_policy_gradient(game, state, config, leads: bool, index: int) -> np.ndarray:
    """Exact gradient of J_D in theta, or of J_A in phi, for one type."""
    defender = defender_player(state, game, config)
    attacker = attacker_player(state, game, config, index)

    def value(params):
        players = (
            (defender.replace(params=params), attacker)
            if leads
            else (defender, attacker.replace(params=params))
        )
        values = exact_values(game, game.prior[index], *players, config.discount)
        return values[0] if leads else values[1]

    at = defender.params if leads else attacker.params
    return np.asarray(flat(jax.jit(jax.grad(value))(at)), np.float64)


def game_rows(args: Estimators, progress: Progress) -> list[dict]:
    """Part 2 on the games with known gradients: the defender's over Q, one attacker's."""
    rows = []
    task = progress.add_task("gradients of J", total=2 * len(args.some(GAMES)))
    for n, (name, game, windows) in enumerate(args.some(GAMES)):
        config = game_config(game)
        state = game_players(game, config)
        q = np.asarray(game.prior.probabilities, np.float64)
        adaptive = game.prior.adaptive.index(True)
        groups = [SCORES, *([m] for m in others(game.finite, windows))]
        for leads in (True, False):
            types = range(len(game.prior)) if leads else (adaptive,)
            weights = q if leads else (1.0,)
            parts: dict[str, list[Moments]] = {}
            truth = sum(
                w * exact_policy_gradient(game, state, config, leads, k)
                for w, k in zip(weights, types, strict=True)
            )
            for g, methods in enumerate(groups):

                def estimate(
                    key, k, methods=methods, state=state, game=game, leads=leads, c=config
                ):
                    return side_estimates(
                        key, game, game.prior[k], defender_player(state, game, c),
                        attacker_player(state, game, c, k), leads, c, methods,
                    )  # fmt: skip

                draw = sampler(estimate, min(1 << 12, args.game_draws))
                for k in types:
                    seed = ((n * 2 + leads) * 50 + g) * 10 + k
                    key = jax.random.fold_in(jax.random.key(args.seed + 2), seed)
                    for label, m in draw(key, args.game_draws, 0.0, jnp.int32(k)).items():
                        parts.setdefault(label, []).append(m)
            rounds = 8 * game.horizon * len(parts[SCORES[0].label])
            for label, each in parts.items():
                row = gradient_row(combine(each, weights), truth, rounds)
                side = "defender" if leads else "attacker"
                rows.append(dict(game=name, side=side, estimator=label, **row))
            progress.advance(task)
    return rows


def variance_rows(args: Estimators, progress: Progress) -> list[dict]:
    """The meta gradients' variances beside each other, from the same episodes."""
    rows = []
    cases = args.some([("bandit", bandit(), ()), ("matrix", matrix_game(), ()), *GAMES])
    task = progress.add_task("variance of meta gradients", total=len(cases))
    for n, (name, game, _) in enumerate(cases):
        config = game_config(game)
        state = game_players(game, config)

        def estimate(key, eta, state=state, game=game, config=config):
            return meta_estimates(key, state, game, config.replace(adapt_lr=eta))

        draw = sampler(estimate, min(1 << 12, args.game_draws))
        for eta in (0.1, 1.0):
            key = jax.random.fold_in(jax.random.key(args.seed + 3), 10 * n + int(10 * eta))
            out = draw(key, args.game_draws, 0.0, jnp.float32(eta))
            first = out["fomaml"].trace
            rows.append(
                dict(game=name, eta=eta, **{name: m.trace / first for name, m in out.items()})
            )
        progress.advance(task)
    return rows


FL_TYPES = ("none", "ipm:scale=2@0.2", "bfl@0.05")
FL_STDS = (0.5, 0.15)
UNBIASED = ("score, return_to_go, group", "pathwise, whole episode")


def fl_rows(args: Estimators, progress: Progress) -> tuple[list[dict], int]:
    """Part 2 on the FL game; (rows, rounds played).

    The truth is not known: it is the mean over the unbiased estimators, weighted by their
    precision.
    """
    game_settings = GameConfig(
        dataset="digits", hidden=(32,), num_root=100, num_validation=200, types=FL_TYPES
    )
    fl = FLConfig(num_clients=50, num_sampled=10, batch_size=16, horizon=args.horizon, local_lr=0.3)
    game = make_game(game_settings, fl, load("digits"))
    config = MetaConfig(group_size=4, num_groups=2, hidden=(32,), discount=DISCOUNT)
    fresh = init_state(jax.random.key(args.seed), game, config)
    windows = (0, 5) if args.horizon % 5 == 0 else (0, 1)
    groups = [(SCORES, 1)]
    for method in others(False, windows):
        groups.append(([method], 2 if method.gradient == "evolution" else 16))
    groups = [g for g in groups if "0.5" not in g[0][0].label]  # far from the policy
    rounds, parts, rates = 0, {}, {}
    task = progress.add_task("FL game", total=len(groups) * len(FL_STDS) * len(FL_TYPES))
    for g, (methods, share) in enumerate(groups):
        draws = max(args.fl_draws // share, 2)

        @jax.jit
        def play(key, theta, index, methods=methods, draws=draws):
            state = fresh.replace(theta=theta)
            defender = defender_player(state, game, config)
            attacker = attacker_player(state, game, config, 0)

            def one(i):
                return side_estimates(
                    jax.random.fold_in(key, i), game, game.prior[index], defender, attacker, True,
                    config, methods,
                )  # fmt: skip

            values = jax.lax.map(one, jnp.arange(draws))
            return {n: (v.mean(axis=0), v.var(axis=0, ddof=1)) for n, v in values.items()}

        for std in FL_STDS:
            log_std = jnp.full_like(fresh.theta["log_std"], np.log(std))
            theta = fresh.theta | {"log_std": log_std}
            for k in range(len(FL_TYPES)):
                key = jax.random.fold_in(jax.random.key(args.seed + 4), 100 * g + 10 * k)
                key = jax.random.fold_in(key, int(100 * std))
                begin = time.perf_counter()
                found = jax.block_until_ready(play(key, theta, jnp.int32(k)))
                rate = draws * 8 * args.horizon / (time.perf_counter() - begin)
                for label, (mean, variance) in found.items():
                    rates[label] = max(rate, rates.get(label, 0.0))  # the first call compiles
                    moments = Moments(
                        np.asarray(mean, np.float64), np.asarray(variance, np.float64), draws
                    )
                    parts.setdefault((std, label), []).append(moments)
                rounds += draws * 8 * args.horizon
                progress.advance(task)
    q = np.asarray(game.prior.probabilities, np.float64)
    labels = [m.label for methods, _ in groups for m in methods]
    rows = []
    for std in FL_STDS:
        for k in (None, *range(len(FL_TYPES))):
            one = {
                label: combine(parts[std, label], q) if k is None else parts[std, label][k]
                for label in labels
            }
            weights = np.array([1 / one[u].error ** 2 for u in UNBIASED])
            weights = weights / weights.sum()
            truth = sum(w * one[u].mean for w, u in zip(weights, UNBIASED, strict=True))
            noise = 1 / np.sqrt(sum(1 / one[u].error ** 2 for u in UNBIASED))
            per_estimate = 8 * args.horizon * (len(FL_TYPES) if k is None else 1)
            for label in labels:
                row = fl_row(one[label], one[UNBIASED[0]], truth, noise, per_estimate)
                name = "all" if k is None else FL_TYPES[k]
                row["speed"] = rates[label]
                rows.append(dict(std=std, type=name, estimator=label, **row))
    return rows, rounds


def fl_row(moments: Moments, reference: Moments, truth, noise: float, rounds: int) -> dict:
    """As :func:`gradient_row`, with the noise of the truth; bias against the scores' mean alone."""
    norm2 = float(truth @ truth) - noise**2  # the noise's own length is no signal
    difference = moments.mean - reference.mean
    error = float(np.hypot(moments.error, reference.error))
    return {
        "norm": float(np.sqrt(max(norm2, 0.0))),
        "noise": noise,
        "trace": moments.trace,
        "rounds": rounds * moments.trace / norm2 if norm2 > 0 else np.nan,
        "sigmas": float(np.linalg.norm(difference)) / error,
        "cosine": float(
            moments.mean @ truth / np.linalg.norm(moments.mean) / np.linalg.norm(truth)
        ),
        "count": moments.count,
    }


# --- Tables -----------------------------------------------------------------------------------


def number(value: float) -> str:
    """Three digits, plain where it reads well."""
    if not np.isfinite(value):
        return "–"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def fl_table(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the FL game's results."""
    header = ["std", "type", "estimator", "rounds for SNR 1", "seconds for SNR 1", 
              "gradient's norm", "its SE", "difference / SE", "cosine", "estimates"]  # fmt: skip
    return header, [
        [str(r["std"]), r["type"], r["estimator"], number(r["rounds"]),
         number(r["rounds"] / r["speed"]), number(r["norm"]), number(r["noise"]),
         f"{r['sigmas']:.1f}", f"{r['cosine']:.3f}", str(r["count"])]
        for r in rows
    ]  # fmt: skip


def main(args: Estimators) -> None:
    """Draws everything, prints the tables and writes the numbers."""
    args = args.sized()
    enable_compilation_cache()
    console, begin, cpu = Console(soft_wrap=True), time.perf_counter(), time.process_time()
    with Progress(console=console) as progress:
        meta = meta_rows(args, progress)
        batch = batch_rows(args, progress)
        games = game_rows(args, progress)
        variance = variance_rows(args, progress)
        half = time.perf_counter()
        fl, rounds = fl_rows(args, progress) if args.fl_draws else ([], 0)
    end, cpu = time.perf_counter(), time.process_time() - cpu
    tables = {
        "meta": (
            ["game", "l", "N_b", "estimator", "objective", "estimate", "SE", "exact", "error / SE",
             "relative bias", "cosine", "draws"],
            [
                [r["game"], str(r["steps"]), str(r["batch"]), LABELS[r["estimator"]],
                 r["objective"], f"{r['along']:.5f}", f"{r['error']:.5f}", f"{r['exact']:.5f}",
                 f"{r['sigmas']:.1f}", f"{r['bias']:.1%}", f"{r['cosine']:.4f}", f"{r['count']:,}"]
                for r in meta
            ],
        ),
        "batch": (
            ["game", "eta", "N_b", "estimate", "SE", "exact", "error / SE", "relative bias",
             "variance: fomaml", "debiased (exact)", "debiased (sampled)", "draws"],
            [
                [r["game"], f"{r['eta']:g}", str(r["batch"]), f"{r['along']:.5f}",
                 f"{r['error']:.5f}", f"{r['exact']:.5f}", f"{r['sigmas']:.1f}", f"{r['bias']:.1%}",
                 number(r["trace_fomaml"]), number(r["trace"]), number(r["trace_debiased"]),
                 f"{r['count']:,}"]
                for r in batch
            ],
        ),
        "games": (
            ["game", "gradient of", "estimator", "rounds for SNR 1", "error / SE", "relative bias"],
            [
                [r["game"], r["side"], r["estimator"], number(r["rounds"]), f"{r['sigmas']:.1f}",
                 f"{r['bias']:.1%}"]
                for r in games
            ],
        ),
        "variance": (
            ["game", "eta", *(LABELS[n] for n in NAMES)],
            [
                [r["game"], str(r["eta"]), *(number(r[n]) for n in NAMES)]
                for r in variance
            ],
        ),
    }  # fmt: skip
    if fl:
        tables["fl"] = fl_table([r for r in fl if r["type"] == "all"])
        few = ("score, return_to_go, leave_one_out", *UNBIASED, "pathwise, window")
        tables["fl_types"] = fl_table(
            [r for r in fl if r["type"] != "all" and r["estimator"].startswith(few)]
        )
    for name, (header, rows) in tables.items():
        console.print(rich_table(name, header, rows))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_csv(
        args.out,
        dict(meta=meta, batch=batch, games=games, variance=variance) | dict(fl=fl),
    )
    console.print(
        f"{half - begin:.0f} s for games with known answers, {end - half:.0f} s for the FL game, "
        f"{rounds:,} rounds; {cpu:.0f} s of processor time; written to {args.out}"
    )


def write_csv(path: Path, tables: dict[str, list[dict]]) -> None:
    """All numbers in long form: table, row, quantity, value."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["table", "row", "quantity", "value"])
        for table, rows in tables.items():
            for i, row in enumerate(rows):
                for quantity, value in row.items():
                    shown = f"{value:.8g}" if isinstance(value, float) else str(value)
                    writer.writerow([table, i, quantity, shown])


if __name__ == "__main__":
    main(tyro.cli(Estimators, description=__doc__))
