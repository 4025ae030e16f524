"""Estimates of grad J from episodes, on games whose gradient is known."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from rich.progress import Progress
from theory.meta_gradients import meta_estimates
from theory.moments import Moments, compare, flat, sampler
from theory.settings import Estimators

from metasg_jax.config import MetaConfig
from metasg_jax.learning import init_state
from metasg_jax.learning.estimators import ESTIMATORS, policy_gradient
from metasg_jax.learning.state import attacker_player, defender_player
from metasg_jax.testing import (
    bandit,
    exact_values,
    leader_follower,
    matrix_game,
    quadratic_fl,
    two_types,
)

DISCOUNT = 0.99


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
