"""A run with adaptation: blocks of rounds, and Psi with its guard between them."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.evaluation.episodes import held_out
from metasg_jax.evaluation.metrics import Metrics, measure_deployed
from metasg_jax.game.bsmg import FLGame
from metasg_jax.game.rollout import Player
from metasg_jax.online.belief import Belief
from metasg_jax.online.guard import Trust, Verdict, hold, look_ahead, no_promise
from metasg_jax.online.misfit import STRANGE, misfit
from metasg_jax.online.real_run import RealRun, Truth, begin_run, play_block
from metasg_jax.online.view import OnlineView, OwnWorld
from metasg_jax.types import Key


class Block(NamedTuple):
    """What happened in a block of rounds, and after it.

    Attributes:
        view: what the server saw.
        truth: what it did not.
        belief: f32[K], after the block.
        verdict: of the guard; None without one, where there was no candidate, and for a stranger.
        doubt: of the guard, by how much its promises were broken.
        misfit: of what was seen to the own world's types, as the guard has it; NaN without one.
        info: of Psi.
        seconds: that Psi and the guard took.
    """

    view: OnlineView
    truth: Truth
    belief: np.ndarray
    verdict: Verdict | None
    doubt: float
    misfit: float
    info: dict[str, float]
    seconds: float

    @property
    def strange(self) -> bool:
        """Whether a guard takes the attacker for one of no type in the own world."""
        return self.misfit > STRANGE


class Hidden(NamedTuple):
    """What no server knows.

    Attributes:
        game: the real one.
        types: places in its table, one a block: a type that changes, or begins late, is told here.
        attackers: of its types, parameters stacked.
        responder: how they use what they know, see :mod:`metasg_jax.responders`; None, not at all.
    """

    game: FLGame
    types: tuple[int, ...]
    attackers: Player
    responder: Any = None

    def attacker(self, number: int) -> Player:
        """Who plays in a block, from 0."""
        return self.attackers.of(self.types[number])

    @property
    def num_rounds(self) -> int:
        """Rounds of one block."""
        return self.game.horizon // len(self.types)


class Server(NamedTuple):
    """What a server brings.

    Attributes:
        own: its own world.
        meta: the policy of the pre-training.
        belief: learned in the own world.
        psi: of the registry.
        guard: whether a candidate has to stand a look ahead, and what it promised.
    """

    own: OwnWorld
    meta: Player
    belief: Belief
    psi: Any
    guard: bool = True


class Standing(NamedTuple):
    """Between two blocks: all that is needed to go on.

    Attributes:
        run: the real one.
        player: the policy that plays.
        state: of Psi.
        trust: of the guard in the own world.
        blocks: played so far.
    """

    run: RealRun
    player: Player
    state: Any
    trust: Trust
    blocks: int


def begin(key: Key, hidden: Hidden, server: Server, prepared) -> Standing:
    """Before the first block.

    Args:
        key: of the run; the same for :func:`next_block`.
        hidden: what is real.
        server: who adapts.
        prepared: what ``psi.begin`` made in the own world, beforehand.
    """
    key_real, _ = jax.random.split(jax.random.clone(key))
    run = begin_run(jax.random.fold_in(key_real, 0), hidden.game, jnp.int32(hidden.types[0]))
    player = server.meta.replace(greedy=not server.psi.explores)
    return Standing(run, player, prepared, no_promise(), 0)


def next_block(
    key: Key, standing: Standing, hidden: Hidden, server: Server
) -> tuple[Standing, Block]:
    """Plays a block, then adapts.

    Args:
        key: of the run.
        standing: of :func:`begin` or the last block.
        hidden: what is real; adaptation gets views of it only.
        server: who adapts.
    """
    key_real, key_own = jax.random.split(jax.random.clone(key))
    number = standing.blocks + 1
    run, view, truth = play_block(
        jax.random.fold_in(key_real, number), standing.run, hidden.game,
        jnp.int32(hidden.types[number - 1]), standing.player, hidden.attacker(number - 1),
        hidden.num_rounds, hidden.responder,
    )  # fmt: skip
    jax.block_until_ready(run)
    start = time.perf_counter()
    belief = server.belief(view)
    after, verdict, info = adapt(
        jax.random.fold_in(key_own, number), standing._replace(run=run), server, view, belief
    )
    jax.block_until_ready((after.player, after.state))
    seconds = time.perf_counter() - start
    trust = after.trust
    block = Block(
        view, truth, np.asarray(belief), verdict, float(trust.doubt), float(trust.misfit), info,
        seconds,
    )  # fmt: skip
    return after._replace(blocks=number), block


def adapt(
    key: Key, standing: Standing, server: Server, view: OnlineView, belief: jax.Array
) -> tuple[Standing, Verdict | None, dict[str, float]]:
    """Psi and the guard: (what the next block begins with, verdict, info).

    A policy whose block was worse than promised gives way to the meta policy, and so does any
    against a stranger: where no type of the own world explains what was seen, looking ahead in it
    means nothing, and nothing is promised.
    """
    own, meta, _, psi, guard = server
    if not psi.adapts:
        return standing, None, {}
    own = own.suspecting(view)
    player, trust = standing.player, standing.trust
    key_psi, key_guard, key_misfit = jax.random.split(key, 3)
    if guard:
        trust, broken = hold(trust, view, misfit(key_misfit, own, player, view))
        if bool(broken | trust.strange):
            player = player.replace(params=meta.params)
    made: Any = candidate_of(key_psi, standing.state, own, meta, player, view, belief, psi)
    candidate, state, info = made
    told = {name: float(value) for name, value in info.items()}
    if not guard:
        return standing._replace(player=candidate, state=state), None, told
    if bool(trust.strange):
        nothing = jnp.full((), jnp.nan, jnp.float32)
        trust = trust.replace(loss=nothing, spread=nothing)
        return standing._replace(player=player, state=state, trust=trust), None, told
    verdict = look_ahead(
        key_guard, own, belief, view.server, player, candidate, trust.doubt, len(view.loss)
    )
    player = candidate if bool(verdict.accepted) else player
    trust = trust.replace(loss=verdict.loss, spread=verdict.spread)
    return standing._replace(player=player, state=state, trust=trust), verdict, told


@jax.jit
def candidate_of(key, state, own, meta, current, view, belief, psi):
    """Psi, jitted."""
    return psi(key, state, own, meta, current, view, belief)


def final_metrics(key: Key, hidden: Hidden, standing: Standing) -> Metrics:
    """Metrics of the deployed copy after the last block, on test images."""
    return _measured(key, hidden.game, jnp.int32(hidden.types[-1]), standing.run.state)


@jax.jit
def _measured(key, game: FLGame, i, state):
    deployed, _ = game.deploy(key, state.w, state.previous_action)
    images, labels = held_out(game, "test")
    return measure_deployed(game.model, deployed, images, labels, game.prior[i], state.diverged)


def play_adapting(
    key: Key,
    hidden: Hidden,
    server: Server,
    prepared,
    on_block: Callable[[Block], None] = lambda block: None,
) -> tuple[Metrics, list[Block]]:
    """A whole run; arguments as in :func:`begin`."""
    standing, blocks = begin(key, hidden, server, prepared), []
    for _ in hidden.types:
        standing, block = next_block(key, standing, hidden, server)
        blocks.append(block)
        on_block(block)
    key_end = jax.random.fold_in(jax.random.clone(key), 1_000_003)
    return final_metrics(key_end, hidden, standing), blocks
