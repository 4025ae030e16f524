"""Clients that collude: who they are, and what they compute on their images before they send."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metasg_jax.attacks.plan import LocalPlan
from metasg_jax.attacks.table import AttackTable
from metasg_jax.fl.client import local_updates, poison
from metasg_jax.fl.data import stamp
from metasg_jax.fl.federation import Call, Federation
from metasg_jax.fl.sampling import sample_positions
from metasg_jax.numerics import weighted_sum
from metasg_jax.struct import Struct
from metasg_jax.types import Key

_LOOKED_AT = 256
"""Images by which an attacker judges a row."""


class Colluders(Struct):
    """Malicious clients that follow one attack in an episode, and share what they know.

    Attributes:
        table: the attacks they may follow.
        kind: i32[], which one (not batched), and
        slot: i32[], with which numbers.
        first: i32[], id of the first of them; theirs are the ids first .. first + count - 1.
        count: i32[], how many of all N clients they are.
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
        """bool[n]: which of the sampled clients are among them and attack in this round."""
        mine = (client_ids >= self.first) & (client_ids < self.first + self.count)
        return mine & (round >= self.onset)


class Attackers(Struct):
    """The groups of colluders of a round, a place each in all three fields. No two share a client.

    Attributes:
        groups: who attacks; may be empty.
        states: each group's attack state.
        actions: each group's action f32[A] in [-1, 1]; read by adaptive attacks only.
    """

    groups: tuple[Colluders, ...] = ()
    states: tuple[Any, ...] = ()
    actions: tuple[jax.Array, ...] = ()


def second_pass(
    key: Key,
    federation: Federation,
    call: Call,
    colluders: Colluders,
    plan: LocalPlan,
    malicious: jax.Array,
    updates: jax.Array,
) -> jax.Array:
    """One row f32[d] that all colluders of a group send; zeros where their attack needs none.

    Trained on images of the first of them that was sampled, or of all of them.

    Args:
        key: consumed.
        federation: whose clients they are.
        call: the round's.
        colluders: who trains.
        plan: of all n clients.
        malicious: bool[n], those of them that were called.
        updates: f32[n, d], what all clients trained.
    """
    fl, data = federation.fl, federation.data
    steps = colluders.table.second_pass_steps

    def train():
        key_positions, key_poison = jax.random.split(jax.random.fold_in(key, 2))
        first = jnp.argmax(malicious)
        positions = sample_positions(
            key_positions, data.sizes[call.client_ids[first]][None], steps, fl.batch_size
        )
        drawn = jnp.full_like(positions, call.client_ids[first]), positions
        pooled = _pooled(jax.random.fold_in(key, 4), federation, colluders, positions.shape)
        shares = colluders.table.pools_images(colluders.kind)
        drawn = jax.tree.map(lambda a, b: jnp.where(shares, a, b), pooled, drawn)
        share = malicious / jnp.maximum(malicious.sum(), 1)
        row = jax.tree.map(lambda a: a[first][None], plan).replace(
            reference=weighted_sum(share, jnp.where(malicious[:, None], updates, 0.0))[None]
        )
        x, y = poison(key_poison, row, *data.pick(*drawn))
        return local_updates(federation.model, call.w_global, x, y, row, fl.precision)[0]

    # the predicate is not batched, so honest types skip the work even under vmap over rollouts
    needed = colluders.table.needs_second_pass(colluders.kind)
    return jax.lax.cond(needed, train, lambda: jnp.zeros_like(call.w_global))


def look_at(key: Key, federation: Federation, w_global: jax.Array, colluders: Colluders):
    """How colluders judge what they are about to send: see ``AttackContext.look``.

    Consumes ``key``.
    """
    model, fl, data = federation.model, federation.fl, federation.data
    drawn = _pooled(key, federation, colluders, (_LOOKED_AT,))

    def look(update, stamped: bool):
        x, y = data.pick(*drawn)
        weights = jnp.ones(y.shape, jnp.float32)
        if stamped:
            weights = (y != colluders.target).astype(jnp.float32)
            x, y = (
                stamp(x, colluders.trigger_mask, colluders.trigger_pattern),
                jnp.full_like(y, colluders.target),
            )
        logits = model.apply(model.unravel(w_global - fl.server_lr * update), x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return jnp.vdot(weights, losses) / jnp.maximum(weights.sum(), 1)

    return look


def _pooled(
    key: Key, federation: Federation, colluders: Colluders, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """(owners, positions), each i32[shape], of images of the colluders, sampled or not.

    Each client is as likely as the other.
    """
    key_owner, key_image = jax.random.split(key)
    count = jnp.maximum(colluders.count, 1)
    owners = colluders.first + jax.random.randint(key_owner, shape, 0, count)
    owners = jnp.minimum(owners, federation.fl.num_clients - 1)  # nobody's, if there are none
    return owners, jax.random.randint(key_image, shape, 0, federation.data.sizes[owners])
