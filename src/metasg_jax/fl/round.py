"""One round of federated learning under attack: a pure function.

``sample -> plan -> local training -> craft`` gives what the server receives; then the server's rule
turns that into an update and the server subtracts it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metasg_jax.attacks.base import AttackContext
from metasg_jax.attacks.plan import honest_plan, merge_rows
from metasg_jax.attacks.table import AttackTable
from metasg_jax.config import FLConfig
from metasg_jax.fl.augment import crop_and_flip
from metasg_jax.fl.client import local_updates, poison
from metasg_jax.fl.data import ClientData, stamp
from metasg_jax.fl.sampling import sample_positions
from metasg_jax.numerics import weighted_sum
from metasg_jax.struct import Struct
from metasg_jax.types import Aggregator, Info, Key, Model, Received

_LOOKED_AT = 256
"""Images by which an attacker judges a row."""


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


def collect(
    key: Key,
    model: Model,
    fl: FLConfig,
    data: ClientData,
    w_global: jax.Array,
    client_ids: jax.Array,
    round: jax.Array,
    squads: tuple[Squad, ...],
    states: tuple[Any, ...],
    actions: tuple[jax.Array, ...],
    rule: Aggregator,
    needs_root: bool,
) -> tuple[Received, tuple[Any, ...]]:
    """What the server receives when ``client_ids`` train from ``w_global`` under attack.

    Args:
        key: consumed.
        model: static.
        fl: counts are static, learning rates traced.
        data: images of clients and server.
        w_global: f32[d].
        client_ids: i32[n], all different.
        round: i32[].
        squads: the attackers; may be none. Their clients must be disjoint.
        states: each squad's attack state.
        actions: each squad's action f32[A] in [-1, 1]; read by adaptive attacks only.
        rule: the server's rule, for attacks that know it.
        needs_root: static; whether the server trains on its root images too.

    Returns:
        (received, states).
    """
    n, num_owners = client_ids.shape[0], data.sizes.shape[0]
    key_positions, key_poison, *keys_squad = jax.random.split(key, 2 + len(squads))
    weights = answer_weights(fl, data.sizes[client_ids])
    uses = tuple({name for squad in squads for name in squad.table.uses})
    image_shape = data.images.shape[1:]
    taken = part_of(fl.local_steps, fl.steps_share)
    plan = honest_plan(n, image_shape, model.num_classes, fl.local_lr, taken, uses)

    member = [squad.members(client_ids, round) for squad in squads]
    colluders = sum(member, jnp.zeros((n,), bool))
    contexts, plans, new_states, apart = [], [], [], []
    first_pass = plan
    for squad, malicious, state, action, key_squad in zip(
        squads, member, states, actions, keys_squad, strict=True
    ):
        ctx = AttackContext(
            malicious=malicious,
            colluders=colluders,
            member=jnp.where(malicious, client_ids - squad.first, -1),
            visible=None,
            weights=weights,
            w_global=w_global,
            plan=plan,
            round=round,
            num_malicious=squad.count,
            trigger_mask=squad.trigger_mask,
            trigger_pattern=squad.trigger_pattern,
            target=squad.target,
            rule=rule,
            num_clients=fl.num_clients,
            server_lr=fl.server_lr,
        )
        key_plan = jax.random.fold_in(key_squad, 0)
        planned, state = squad.table.plan(squad.kind, squad.slot, key_plan, state, ctx, action)
        own_pass = squad.table.needs_second_pass(squad.kind)
        first_pass = merge_rows(malicious & ~own_pass, planned, first_pass)
        contexts.append(ctx)
        plans.append(planned)
        new_states.append(state)
        apart.append(own_pass)

    owners = client_ids
    if needs_root:
        owners = jnp.append(client_ids, num_owners - 1)
        server = honest_plan(1, image_shape, model.num_classes, fl.local_lr, taken, uses)
        first_pass = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first_pass, server)
    positions = sample_positions(key_positions, data.sizes[owners], fl.local_steps, fl.batch_size)
    positions = fewer_images(positions, fl.batch_share)
    images, labels = data.batches(owners, positions)
    if fl.augment == "crop_flip":  # before a trigger is stamped, which so keeps its place
        images = crop_and_flip(jax.random.fold_in(key_positions, 1), images)
    batches = images, labels
    x, y = poison(key_poison, first_pass, *batches)
    trained = local_updates(model, w_global, x, y, first_pass, fl.precision)
    updates, root_update = trained[:n], trained[n] if needs_root else None

    def honestly():
        """What the n clients would have sent: their batches as they are, the honest plan."""
        x, y = jax.tree.map(lambda a: a[:n], batches)
        return local_updates(model, w_global, x, y, plan, fl.precision)

    honest = None
    twice = [s.table.trains_twice(s.kind) for s in squads if s.table.some_train_twice]
    if twice:  # once for all squads
        honest = jax.lax.cond(jnp.stack(twice).any(), honestly, lambda: updates)
    sent = updates
    for i, squad in enumerate(squads):
        visible = updates
        if squad.table.second_pass_steps:
            row = _second_pass(
                keys_squad[i], model, fl, data, w_global, client_ids, squad, plans[i], member[i],
                updates, apart[i],
            )  # fmt: skip
            visible = jnp.where((member[i] & apart[i])[:, None], row[None], updates)
        look = look_at(jax.random.fold_in(keys_squad[i], 3), model, fl, data, w_global, squad)
        ctx = contexts[i].replace(visible=visible, honest=honest, look=look)
        key_craft = jax.random.fold_in(keys_squad[i], 1)
        rows, new_states[i] = squad.table.craft(
            squad.kind, squad.slot, key_craft, new_states[i], ctx, actions[i]
        )
        sent = merge_rows(member[i], rows, sent)

    received = Received(
        updates=sent,
        weights=weights,
        client_ids=client_ids,
        w_global=w_global,
        root_update=root_update,
        round=round,
    )
    return received, tuple(new_states)


def part_of(count: int, share: jax.Array | float) -> jax.Array:
    """``share`` of ``count`` as a whole number i32[], at least 1."""
    return jnp.maximum(jnp.round(share * count), 1).astype(jnp.int32)


def fewer_images(positions: jax.Array, share: jax.Array | float) -> jax.Array:
    """Positions i32[n, S, B] of which the first ``share`` of each batch come again and again."""
    width = positions.shape[-1]
    again = jnp.arange(width, dtype=jnp.int32) % part_of(width, share)
    return positions[..., again]


def answer_weights(fl: FLConfig, sizes: jax.Array) -> jax.Array:
    """What answers of clients that hold i32[n] images weigh, f32[n]: see ``FLConfig.weighting``."""
    return (
        sizes.astype(jnp.float32) if fl.weighting == "size" else jnp.ones(sizes.shape, jnp.float32)
    )


def _second_pass(
    key, model, fl, data, w_global, client_ids, squad, plan, malicious, updates, needed
):
    """One row f32[d] that all of the squad's clients send.

    Trained on images of the first of them that was sampled, or of all of them.
    """
    steps = squad.table.second_pass_steps

    def train():
        key_positions, key_poison = jax.random.split(jax.random.fold_in(key, 2))
        first = jnp.argmax(malicious)
        positions = sample_positions(
            key_positions, data.sizes[client_ids[first]][None], steps, fl.batch_size
        )
        drawn = jnp.full_like(positions, client_ids[first]), positions
        pooled = _pooled(jax.random.fold_in(key, 4), fl, data, squad, positions.shape)
        shares = squad.table.pools_images(squad.kind)
        drawn = jax.tree.map(lambda a, b: jnp.where(shares, a, b), pooled, drawn)
        share = malicious / jnp.maximum(malicious.sum(), 1)
        row = jax.tree.map(lambda a: a[first][None], plan).replace(
            reference=weighted_sum(share, jnp.where(malicious[:, None], updates, 0.0))[None]
        )
        x, y = poison(key_poison, row, *data.pick(*drawn))
        return local_updates(model, w_global, x, y, row, fl.precision)[0]

    # the predicate is not batched, so honest types skip the work even under vmap over rollouts
    return jax.lax.cond(needed, train, lambda: jnp.zeros_like(w_global))


def _pooled(key, fl, data, squad, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """(owners, positions), each i32[shape], of images of a squad's clients, sampled or not.

    Each client is as likely as the other.
    """
    key_owner, key_image = jax.random.split(key)
    owners = squad.first + jax.random.randint(key_owner, shape, 0, jnp.maximum(squad.count, 1))
    owners = jnp.minimum(owners, fl.num_clients - 1)  # nobody's, where the squad is empty
    return owners, jax.random.randint(key_image, shape, 0, data.sizes[owners])


def look_at(key: Key, model: Model, fl: FLConfig, data: ClientData, w_global, squad: Squad):
    """How a squad judges what it is about to send: see ``AttackContext.look``. Consumes ``key``."""
    drawn = _pooled(key, fl, data, squad, (_LOOKED_AT,))

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


def aggregate(
    key: Key, rule: Aggregator, state: Any, received: Received, server_lr, action=None
) -> tuple[jax.Array, Any, Info]:
    """The next global model ``w_global - server_lr * update`` f32[d], the rule's state and info."""
    update, state, info = rule(key, state, received, action)
    return received.w_global - server_lr * update, state, info
