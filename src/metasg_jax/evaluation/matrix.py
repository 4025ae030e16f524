"""Fixed defences against fixed attacks: every rule, every attack, every post-training defence.

A *defence* here is a rule with a post-training defence. The rule decides how training goes; the
post-training defence acts on the trained copy, so that all of them share the rounds of one run.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.evaluation.metrics import Metrics, measure_deployed
from metasg_jax.evaluation.statistics import mean_se
from metasg_jax.evaluation.tables import with_error
from metasg_jax.fl.simulate import SimulationState, simulate, start
from metasg_jax.game.bsmg import FLGame
from metasg_jax.post_defenses import undefended
from metasg_jax.types import Key, PostDefense


def begin(key: Key, game: FLGame, i: jax.Array | int) -> SimulationState:
    """A fresh model, and the states of the game's rule and of the attacks of type ``i``."""
    return start(key, game.model, game.fl, game.rule, game.prior.colluders(game.prior[i]))


def play_rounds(
    key: Key, game: FLGame, state: SimulationState, i: jax.Array | int, num_rounds: int
) -> SimulationState:
    """Rounds of the game's rule against type ``i``; see :func:`metasg_jax.fl.simulate`."""
    return simulate(
        key, state, game.model, game.fl, game.data, game.rule, game.prior.colluders(game.prior[i]),
        num_rounds=num_rounds,
    )  # fmt: skip


def judge(
    key: Key, game: FLGame, w: jax.Array, i: jax.Array | int, posts: tuple[PostDefense, ...]
) -> Metrics:
    """Test metrics of a global model f32[d] behind each post-training defence; leaves [P].

    A model that is not finite counts as diverged: no image right, every backdoor in full success.
    """
    finite = jnp.isfinite(w).all()
    whole = undefended(game.model, game.model.unravel(jnp.where(finite, w, 0.0)))

    def behind(post: PostDefense) -> Metrics:
        calibrated = post.calibrate(game.model, whole, game.root_x, game.root_y)
        deployed, _, _ = post(key, calibrated, whole)
        xi = game.prior[i]
        return measure_deployed(game.model, deployed, game.test_x, game.test_y, xi, ~finite)

    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(behind, posts))


@functools.partial(jax.jit, static_argnames="num_rounds")
def play_cell(
    key: Key, game: FLGame, i: jax.Array, posts: tuple[PostDefense, ...], *, num_rounds: int
) -> Metrics:
    """One run of the game's rule against type ``i``, judged behind each post-training defence.

    One program serves all types of the game, and all games of the same shapes and kinds. Runs with
    the same ``key`` share model, clients and batches.

    Args:
        key: consumed.
        game: its prior is the list of attacks; its own post-training defence is not used.
        i: i32[], the type; not batched.
        posts: P post-training defences, by their fields.
        num_rounds: static.

    Returns:
        Metrics with leaves [P].
    """
    key_model, key_rounds, key_post = jax.random.split(key, 3)
    state = play_rounds(key_rounds, game, begin(key_model, game, i), i, num_rounds)
    return judge(key_post, game, state.w, i, posts)


@functools.partial(jax.jit, static_argnames="num_rounds")
def play_cells(
    keys: Key, games: FLGame, i: jax.Array, posts: tuple[PostDefense, ...], *, num_rounds: int
) -> Metrics:
    """:func:`play_cell` in B games side by side, a leading axis of ``keys`` and all of ``games``.

    The same outcomes but for rounding. It pays where one game leaves a device idle, as on a GPU.

    Returns:
        Metrics with leaves [B, P].
    """
    play = functools.partial(play_cell, num_rounds=num_rounds)
    return jax.vmap(play, in_axes=(0, 0, None, None))(keys, games, i, posts)


class Matrix(NamedTuple):
    """Outcomes of all cells; NaN where one has not been played.

    Attributes:
        attacks: K names.
        rules: J names.
        posts: P names.
        accuracy: f64[K, J, P, S], on test images, over S seeds.
        asr: f64[K, J, P, S]; NaN for attacks without a backdoor.
        score: f64[K, J, P, S], accuracy minus ASR where there is a backdoor.
    """

    attacks: tuple[str, ...]
    rules: tuple[str, ...]
    posts: tuple[str, ...]
    accuracy: np.ndarray
    asr: np.ndarray
    score: np.ndarray


def assemble(
    attacks: tuple[str, ...], rules: tuple[str, ...], posts: tuple[str, ...], seeds: int, rows
) -> Matrix:
    """A :class:`Matrix` from rows with attack, rule, post, seed, accuracy, asr and score.

    Rows of other names or seeds are left out.
    """
    shape = (len(attacks), len(rules), len(posts), seeds)
    values = {name: np.full(shape, np.nan) for name in ("accuracy", "asr", "score")}
    for row in rows:
        if row["attack"] not in attacks or row["rule"] not in rules or row["post"] not in posts:
            continue
        if int(row["seed"]) >= seeds:
            continue
        place = (
            attacks.index(row["attack"]),
            rules.index(row["rule"]),
            posts.index(row["post"]),
            int(row["seed"]),
        )
        for name, array in values.items():
            array[place] = float(row[name])
    return Matrix(attacks, rules, posts, **values)


def worst_case(matrix: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """The lowest mean score of each defence, f64[J, P], and the attack i64[J, P] that gives it.

    The mean is over seeds, so that an attack counts and not a bad seed.
    """
    means = matrix.score.mean(axis=-1)
    return means.min(axis=0), means.argmin(axis=0)


def defence_rows(matrix: Matrix) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every defence by its worst case, best first.

    The cost is what the defence takes from accuracy where nobody attacks: that of the plain mean
    minus its own, over the same seeds; empty without ``none`` among the attacks or ``mean`` and
    ``none`` among the defences.
    """
    worst, which = worst_case(matrix)
    means, _ = mean_se(np.moveaxis(matrix.score, -1, 0))
    base = _clean(matrix, "mean", "none")
    header = ["rule", "post-training", "worst score", "SE", "by", "mean score", "clean accuracy"]
    header.append("cost against mean")
    order = sorted(np.ndindex(worst.shape), key=lambda place: -worst[place])
    rows = []
    for j, p in order:
        k = int(which[j, p])
        _, error = mean_se(matrix.score[k, j, p])
        clean = _clean(matrix, matrix.rules[j], matrix.posts[p])
        cost = ""
        if clean is not None and base is not None:
            cost = with_error(*mean_se(base - clean), "+")
        rows.append(
            [
                matrix.rules[j],
                matrix.posts[p],
                f"{worst[j, p]:.3f}",
                "" if np.isnan(error) else f"{error:.3f}",
                matrix.attacks[k],
                f"{means[:, j, p].mean():.3f}",
                "" if clean is None else f"{clean.mean():.3f}",
                cost,
            ]
        )
    return header, rows


def _clean(matrix: Matrix, rule: str, post: str) -> np.ndarray | None:
    """Accuracy f64[S] without attack; None where that was not played."""
    if "none" not in matrix.attacks or rule not in matrix.rules or post not in matrix.posts:
        return None
    k, j, p = matrix.attacks.index("none"), matrix.rules.index(rule), matrix.posts.index(post)
    return matrix.accuracy[k, j, p]
