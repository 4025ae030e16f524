"""A run with adaptation: blocks of rounds, and Psi with its guard between them."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from metasg_jax.evaluation.episodes import held_out
from metasg_jax.evaluation.metrics import Metrics, measure_deployed
from metasg_jax.game.bsmg import FLGame
from metasg_jax.game.rollout import Player
from metasg_jax.online.belief import Belief
from metasg_jax.online.guard import Verdict, look_ahead
from metasg_jax.online.play import RealRun, Truth, begin_run, play_block
from metasg_jax.online.view import OnlineView, OwnWorld
from metasg_jax.types import Key

# rounds of the guard's look ahead
_AHEAD = 20


class Block(NamedTuple):
    """What happened in a block of rounds, and after it.

    Attributes:
        view: what the server saw.
        truth: what it did not.
        belief: f32[K], after the block.
        verdict: of the guard; None without one, or where there was no candidate.
        info: of Psi.
        seconds: that Psi and the guard took.
    """

    view: OnlineView
    truth: Truth
    belief: np.ndarray
    verdict: Verdict | None
    info: dict[str, float]
    seconds: float


class Standing(NamedTuple):
    """Between two blocks: all that is needed to go on.

    Attributes:
        run: the real one.
        player: the policy that plays.
        state: of Psi.
        blocks: played so far.
    """

    run: RealRun
    player: Player
    state: Any
    blocks: int


def begin(key: Key, game: FLGame, i, meta: Player, psi, prepared) -> Standing:
    """Before the first block.

    Args:
        key: of the run; the same for :func:`next_block`.
        game: the real one.
        i: the hidden type.
        meta: the policy of the pre-training, playing its mode.
        psi: of the registry.
        prepared: what ``psi.begin`` made in the own world, beforehand.
    """
    key_real, _ = jax.random.split(jax.random.clone(key))
    run = begin_run(jax.random.fold_in(key_real, 0), game, i)
    return Standing(run, meta.replace(greedy=not psi.explores), prepared, 0)


def next_block(
    key: Key,
    standing: Standing,
    game: FLGame,
    i,
    attacker: Player,
    own: OwnWorld,
    meta: Player,
    belief: Belief,
    psi,
    guard: bool,
    num_rounds: int,
) -> tuple[Standing, Block]:
    """Plays a block, then adapts.

    Args:
        key: of the run.
        standing: of :func:`begin` or the last block.
        game: the real one, of which adaptation sees views only.
        i: the hidden type.
        attacker: that plays it.
        own: the server's own world.
        meta: the policy of the pre-training.
        belief: learned in the own world.
        psi: of the registry.
        guard: whether a candidate has to stand a look ahead.
        num_rounds: T.
    """
    key_real, key_own = jax.random.split(jax.random.clone(key))
    number = standing.blocks + 1
    run, view, truth = play_block(
        jax.random.fold_in(key_real, number), standing.run, game, i, standing.player, attacker,
        num_rounds,
    )  # fmt: skip
    jax.block_until_ready(run)
    start = time.perf_counter()
    key_psi, key_guard = jax.random.split(jax.random.fold_in(key_own, number))
    now = belief(view)
    player, state, info, verdict = standing.player, standing.state, {}, None
    if psi.adapts:
        candidate, state, info = adapted(key_psi, state, own, meta, player, view, now, psi)
        if guard:
            ahead = min(_AHEAD, game.horizon)
            verdict = look_ahead(key_guard, own, now, view.server, player, candidate, ahead)
        if verdict is None or bool(verdict.accepted):
            player = candidate
    jax.block_until_ready((player, state))
    seconds = time.perf_counter() - start
    block = Block(
        view, truth, np.asarray(now), verdict, {k: float(v) for k, v in info.items()}, seconds
    )
    return Standing(run, player, state, number), block


@jax.jit
def adapted(key, state, own, meta, current, view, belief, psi):
    """Psi, jitted."""
    return psi(key, state, own, meta, current, view, belief)


@functools.partial(jax.jit, static_argnames="split")
def final_metrics(key: Key, game: FLGame, i, standing: Standing, split: str = "test") -> Metrics:
    """Of the deployed copy after the last block, on images that no Psi has seen."""
    state, xi = standing.run.state, game.prior[i]
    deployed, _ = game.deploy(key, state.w, state.previous_action)
    return measure_deployed(game.model, deployed, *held_out(game, split), xi, state.diverged)


def play_adapting(
    key: Key,
    game: FLGame,
    i,
    attacker: Player,
    own: OwnWorld,
    meta: Player,
    belief: Belief,
    psi,
    prepared,
    guard: bool,
    num_rounds: int = 10,
    on_block: Callable[[int, Block], None] = lambda number, block: None,
) -> tuple[Metrics, list[Block]]:
    """A whole run: H rounds in blocks of ``num_rounds``, a divisor of H.

    Arguments as in :func:`begin` and :func:`next_block`.
    """
    standing, blocks = begin(key, game, i, meta, psi, prepared), []
    for number in range(game.horizon // num_rounds):
        standing, block = next_block(
            key, standing, game, i, attacker, own, meta, belief, psi, guard, num_rounds
        )
        blocks.append(block)
        on_block(number, block)
    key_end = jax.random.fold_in(jax.random.clone(key), 1_000_003)
    return final_metrics(key_end, game, i, standing), blocks
