"""What a squad computes on its own images before it sends: a row, and how to judge one."""

import jax
import jax.numpy as jnp
import optax

from metasg_jax.attacks.plan import LocalPlan
from metasg_jax.fl.client import local_updates, poison
from metasg_jax.fl.data import stamp
from metasg_jax.fl.federation import Call, Federation, Squad
from metasg_jax.fl.sampling import sample_positions
from metasg_jax.numerics import weighted_sum
from metasg_jax.types import Key

_LOOKED_AT = 256
"""Images by which an attacker judges a row."""


def second_pass(
    key: Key,
    federation: Federation,
    call: Call,
    squad: Squad,
    plan: LocalPlan,
    malicious: jax.Array,
    updates: jax.Array,
) -> jax.Array:
    """One row f32[d] that all of the squad's clients send; zeros where its attack needs none.

    Trained on images of the first of them that was sampled, or of all of them.

    Args:
        key: consumed.
        federation: whose clients they are.
        call: the round's.
        squad: who trains.
        plan: of all n clients.
        malicious: bool[n], its members.
        updates: f32[n, d], what all clients trained.
    """
    fl, data = federation.fl, federation.data
    steps = squad.table.second_pass_steps

    def train():
        key_positions, key_poison = jax.random.split(jax.random.fold_in(key, 2))
        first = jnp.argmax(malicious)
        positions = sample_positions(
            key_positions, data.sizes[call.client_ids[first]][None], steps, fl.batch_size
        )
        drawn = jnp.full_like(positions, call.client_ids[first]), positions
        pooled = _pooled(jax.random.fold_in(key, 4), federation, squad, positions.shape)
        shares = squad.table.pools_images(squad.kind)
        drawn = jax.tree.map(lambda a, b: jnp.where(shares, a, b), pooled, drawn)
        share = malicious / jnp.maximum(malicious.sum(), 1)
        row = jax.tree.map(lambda a: a[first][None], plan).replace(
            reference=weighted_sum(share, jnp.where(malicious[:, None], updates, 0.0))[None]
        )
        x, y = poison(key_poison, row, *data.pick(*drawn))
        return local_updates(federation.model, call.w_global, x, y, row, fl.precision)[0]

    # the predicate is not batched, so honest types skip the work even under vmap over rollouts
    needed = squad.table.needs_second_pass(squad.kind)
    return jax.lax.cond(needed, train, lambda: jnp.zeros_like(call.w_global))


def look_at(key: Key, federation: Federation, w_global: jax.Array, squad: Squad):
    """How a squad judges what it is about to send: see ``AttackContext.look``. Consumes ``key``."""
    model, fl, data = federation.model, federation.fl, federation.data
    drawn = _pooled(key, federation, squad, (_LOOKED_AT,))

    def look(update, stamped: bool):
        x, y = data.pick(*drawn)
        weights = jnp.ones(y.shape, jnp.float32)
        if stamped:
            weights = (y != squad.target).astype(jnp.float32)
            x, y = (
                stamp(x, squad.trigger_mask, squad.trigger_pattern),
                jnp.full_like(y, squad.target),
            )
        logits = model.apply(model.unravel(w_global - fl.server_lr * update), x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return jnp.vdot(weights, losses) / jnp.maximum(weights.sum(), 1)

    return look


def _pooled(
    key: Key, federation: Federation, squad: Squad, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """(owners, positions), each i32[shape], of images of a squad's clients, sampled or not.

    Each client is as likely as the other.
    """
    key_owner, key_image = jax.random.split(key)
    owners = squad.first + jax.random.randint(key_owner, shape, 0, jnp.maximum(squad.count, 1))
    owners = jnp.minimum(owners, federation.fl.num_clients - 1)  # nobody's, if the squad is empty
    return owners, jax.random.randint(key_image, shape, 0, federation.data.sizes[owners])
