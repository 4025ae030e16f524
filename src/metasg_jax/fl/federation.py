"""Who takes part in a round, and with what: federation, call to its clients, attackers."""

from typing import Any

import jax

from metasg_jax.attacks.table import AttackTable
from metasg_jax.config import FLConfig
from metasg_jax.fl.data import ClientData
from metasg_jax.struct import Struct, field
from metasg_jax.types import Model


class Federation(Struct):
    """What stays from round to round.

    Attributes:
        model: static; what the clients train.
        fl: how they do; counts are static, learning rates traced.
        data: images of clients and server.
    """

    model: Model = field(static=True)
    fl: FLConfig
    data: ClientData


class Call(Struct):
    """What goes out at the beginning of a round.

    Attributes:
        w_global: f32[d], the model.
        client_ids: i32[n], to whom; all different.
        round: i32[], counted from 0.
    """

    w_global: jax.Array
    client_ids: jax.Array
    round: jax.Array


class Squad(Struct):
    """Malicious clients that follow one attack in an episode.

    Attributes:
        table: the attacks it may follow.
        kind: i32[], which one (not batched), and
        slot: i32[], with which numbers.
        first: i32[], id of its first client; ids first .. first + count - 1 belong to it.
        count: i32[], its clients among all N.
        onset: i32[], the first round in which they attack.
        trigger_mask: f32[h, w, c].
        trigger_pattern: f32[h, w, c].
        target: i32[].
    """

    table: AttackTable
    kind: jax.Array
    slot: jax.Array
    first: jax.Array
    count: jax.Array
    onset: jax.Array
    trigger_mask: jax.Array
    trigger_pattern: jax.Array
    target: jax.Array

    def members(self, client_ids: jax.Array, round: jax.Array) -> jax.Array:
        """bool[n]: which of the sampled clients belong to it and attack in this round."""
        mine = (client_ids >= self.first) & (client_ids < self.first + self.count)
        return mine & (round >= self.onset)


class Attackers(Struct):
    """The squads of a round, a place each in all three fields. Their clients are disjoint.

    Attributes:
        squads: who attacks; may be empty.
        states: each squad's attack state.
        actions: each squad's action f32[A] in [-1, 1]; read by adaptive attacks only.
    """

    squads: tuple[Squad, ...] = ()
    states: tuple[Any, ...] = ()
    actions: tuple[jax.Array, ...] = ()
