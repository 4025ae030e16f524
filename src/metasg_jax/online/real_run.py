"""The real run, block after block. It alone holds the game; its views go to what adapts."""

import functools

import jax
import jax.numpy as jnp

from metasg_jax.fl.trigger_inversion import (
    OnlineSearch,
    begin_search,
    continue_search,
    estimate_asr,
    patch_of,
)
from metasg_jax.game.bsmg import FLGame, GameState
from metasg_jax.game.rollout import Player, rollout
from metasg_jax.online.view import OnlineView, server_side
from metasg_jax.post_defenses.none import undefended
from metasg_jax.struct import Struct
from metasg_jax.types import Key


class RealRun(Struct):
    """A run of which the server sees a part.

    Attributes:
        state: of the game.
        search: the server's, for a trigger in its own model.
    """

    state: GameState
    search: OnlineSearch


class Truth(Struct):
    """What nobody who adapts is shown: for reports only.

    Attributes:
        reward: f32[T], the defender's.
        success: f32[T], of the backdoor.
        malicious: f32[T], clients sampled.
    """

    reward: jax.Array
    success: jax.Array
    malicious: jax.Array


def begin_run(key: Key, game: FLGame, i) -> RealRun:
    """A fresh run against type ``i`` of the game; ``key`` is consumed."""
    return RealRun(game.reset(key, game.prior[i]), begin_search(game.model))


@functools.partial(jax.jit, static_argnames="num_rounds")
def play_block(
    key: Key,
    run: RealRun,
    game: FLGame,
    i,
    defender: Player,
    attacker: Player,
    num_rounds: int,
    responder=None,
) -> tuple[RealRun, OnlineView, Truth]:
    """Plays a block of rounds of a policy that stands still.

    Args:
        key: consumed.
        run: of :func:`begin_run` or the last block.
        game: the real one.
        i: i32[], the hidden type; not batched.
        defender: as it stands.
        attacker: the type's.
        num_rounds: T, static.
        responder: of the attackers.
    """
    xi, before = game.prior[i], server_side(run.state)

    def one(run, t):
        key_environment, key_policies = jax.random.split(jax.random.fold_in(key, t))
        state, played = rollout(
            key_environment, key_policies, game, xi, defender, attacker,
            state=run.state, num_rounds=1, responder=responder,
        )  # fmt: skip
        sent = undefended(game.model, game.model.unravel(state.w))
        search, patched = continue_search(run.search, game.model, sent, game.root_x, game.root_y)
        played = jax.tree.map(lambda leaf: leaf[0], played)
        mine = played.defender
        density = defender.policy.log_prob(defender.params, mine.obs, mine.raw)
        suspect, success = estimate_asr(patched)
        seen = (mine.raw_obs, mine.raw, density, mine.action, state.loss, success, suspect)
        info = played.info
        hidden = Truth(mine.reward, info["backdoor"], info["malicious"].astype(jnp.float32))
        return RealRun(state, search), (seen, hidden)

    run, ((*seen, suspects), truth) = jax.lax.scan(one, run, jnp.arange(num_rounds))
    trigger = (*patch_of(run.search, suspects[-1]), suspects[-1])
    return run, OnlineView(before, server_side(run.state), *seen, trigger=trigger), truth
