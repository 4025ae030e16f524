"""Estimates of grad J on the FL game, whose gradient is not known."""

import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress
from theory.moments import Moments
from theory.policy_gradients import DISCOUNT, SCORES, combine, others, side_estimates
from theory.settings import Estimators

from metasg_jax.config import FLConfig, GameConfig, MetaConfig
from metasg_jax.data import load
from metasg_jax.game.make import make_game
from metasg_jax.learning import init_state
from metasg_jax.learning.state import attacker_player, defender_player

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
