"""One round of federated learning under attack: a pure function.

``plan -> train -> look -> craft -> receive`` gives what the server receives; then the server's rule
turns that into an update and the server subtracts it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metasg_jax.attacks.base import AttackContext
from metasg_jax.attacks.plan import LocalPlan, honest_plan, merge_rows
from metasg_jax.config import FLConfig
from metasg_jax.fl.augment import crop_and_flip
from metasg_jax.fl.client import local_updates, poison
from metasg_jax.fl.colluders import Attackers, Colluders, look_at, second_pass
from metasg_jax.fl.federation import Call, Federation
from metasg_jax.fl.sampling import sample_positions
from metasg_jax.types import Aggregator, Info, Key, Received


def collect(
    key: Key,
    federation: Federation,
    call: Call,
    attackers: Attackers,
    rule: Aggregator,
    needs_root: bool,
) -> tuple[Received, tuple[Any, ...]]:
    """What the server receives when the clients that are called train under attack.

    Rows are as the clients would like to send them; what compression makes of them is
    :func:`metasg_jax.fl.wire.transmit`.

    Args:
        key: consumed.
        federation: the clients, their images, and how they train.
        call: the model that is sent out, and to whom.
        attackers: the malicious among all clients; ``Attackers()`` for none.
        rule: the server's rule, for attacks that know it.
        needs_root: static; whether the server trains on its root images too.

    Returns:
        (received, the attacks' states).
    """
    key_positions, key_poison, *keys = jax.random.split(key, 2 + len(attackers.groups))
    weights = answer_weights(federation.fl, federation.data.sizes[call.client_ids])
    honest, attacks = _plan(keys, federation, call, attackers, rule, weights)
    trained = _train((key_positions, key_poison), federation, call, honest, attacks, needs_root)
    sent, states = trained.updates, []
    for attack, action in zip(attacks, attackers.actions, strict=True):
        ctx = _look(attack, federation, call, trained)
        key_craft = jax.random.fold_in(attack.key, 1)
        table, kind, slot = attack.colluders.table, attack.colluders.kind, attack.colluders.slot
        rows, state = table.craft(kind, slot, key_craft, attack.state, ctx, action)
        sent = merge_rows(attack.malicious, rows, sent)
        states.append(state)
    received = Received(
        updates=sent,
        weights=weights,
        client_ids=call.client_ids,
        w_global=call.w_global,
        root_update=trained.root_update,
        round=call.round,
    )
    return received, tuple(states)


class _PlannedAttack(NamedTuple):
    """The attack of one group of colluders in one round, once it is planned.

    Attributes:
        colluders: who.
        key: of all that they draw.
        malicious: bool[n], those of them that were called.
        ctx: what they knew when they planned.
        plan: how they train; rows of others are not read.
        apart: bool[], whether they train in a pass of their own.
        state: of the attack.
    """

    colluders: Colluders
    key: Key
    malicious: jax.Array
    ctx: AttackContext
    plan: LocalPlan
    apart: jax.Array
    state: Any


class _Trained(NamedTuple):
    """What local training gave.

    Attributes:
        updates: f32[n, d], of the clients, by their plans.
        honest: f32[n, d], as if nobody attacked; None where no attack asks for it.
        root_update: f32[d], the server's own; None where it does not train.
    """

    updates: jax.Array
    honest: jax.Array | None
    root_update: jax.Array | None


def _plan(
    keys, federation: Federation, call: Call, attackers: Attackers, rule: Aggregator, weights
) -> tuple[LocalPlan, list[_PlannedAttack]]:
    """(the plan of n honest clients, each group of colluders with its own)."""
    honest = _honest(federation, len(call.client_ids), attackers.groups)
    member = [group.members(call.client_ids, call.round) for group in attackers.groups]
    colluders = sum(member, jnp.zeros(call.client_ids.shape, bool))
    attacks = []
    for group, malicious, state, action, key in zip(
        attackers.groups, member, attackers.states, attackers.actions, keys, strict=True
    ):
        ctx = AttackContext(
            malicious=malicious,
            colluders=colluders,
            member=jnp.where(malicious, call.client_ids - group.first, -1),
            visible=None,
            weights=weights,
            w_global=call.w_global,
            plan=honest,
            round=call.round,
            num_malicious=group.count,
            trigger_mask=group.trigger_mask,
            trigger_pattern=group.trigger_pattern,
            target=group.target,
            rule=rule,
            num_clients=federation.fl.num_clients,
            server_lr=federation.fl.server_lr,
        )
        key_plan = jax.random.fold_in(key, 0)
        plan, state = group.table.plan(group.kind, group.slot, key_plan, state, ctx, action)
        apart = group.table.needs_second_pass(group.kind)
        attacks.append(_PlannedAttack(group, key, malicious, ctx, plan, apart, state))
    return honest, attacks


def _honest(federation: Federation, n: int, groups: tuple[Colluders, ...]) -> LocalPlan:
    """The plan of ``n`` honest clients, with room for what colluders may fill."""
    fl, model = federation.fl, federation.model
    uses = tuple({name for group in groups for name in group.table.uses})
    steps = part_of(fl.local_steps, fl.steps_share)
    image_shape = federation.data.images.shape[1:]
    return honest_plan(n, image_shape, model.num_classes, fl.local_lr, steps, uses)


def _train(keys, federation, call, honest, attacks, needs_root) -> _Trained:
    """All clients at once, and the server as one more of them if ``needs_root``."""
    (key_positions, key_poison), n = keys, len(call.client_ids)
    model, fl, data = federation.model, federation.fl, federation.data
    plan, owners = honest, call.client_ids
    for attack in attacks:
        plan = merge_rows(attack.malicious & ~attack.apart, attack.plan, plan)
    if needs_root:
        owners = jnp.append(owners, data.sizes.shape[0] - 1)
        server = _honest(federation, 1, tuple(attack.colluders for attack in attacks))
        plan = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), plan, server)
    positions = sample_positions(key_positions, data.sizes[owners], fl.local_steps, fl.batch_size)
    positions = fewer_images(positions, fl.batch_share)
    images, labels = data.batches(owners, positions)
    if fl.augment == "crop_flip":  # before a trigger is stamped, which so keeps its place
        images = crop_and_flip(jax.random.fold_in(key_positions, 1), images)
    x, y = poison(key_poison, plan, images, labels)
    trained = local_updates(model, call.w_global, x, y, plan, fl.precision)
    updates = trained[:n]

    def honestly():
        """What the n clients would have sent: their batches as they are, the honest plan."""
        return local_updates(model, call.w_global, images[:n], labels[:n], honest, fl.precision)

    groups = [attack.colluders for attack in attacks]
    twice = [s.table.trains_twice(s.kind) for s in groups if s.table.some_train_twice]
    as_honest = None
    if twice:  # once for all groups
        as_honest = jax.lax.cond(jnp.stack(twice).any(), honestly, lambda: updates)
    return _Trained(updates, as_honest, trained[n] if needs_root else None)


def _look(
    attack: _PlannedAttack, federation: Federation, call: Call, trained: _Trained
) -> AttackContext:
    """What colluders know when they craft: rows, their second pass, and a way to judge them."""
    visible = trained.updates
    if attack.colluders.table.second_pass_steps:
        row = second_pass(
            attack.key, federation, call, attack.colluders, attack.plan, attack.malicious,
            trained.updates,
        )  # fmt: skip
        visible = jnp.where((attack.malicious & attack.apart)[:, None], row[None], trained.updates)
    key_look = jax.random.fold_in(attack.key, 3)
    look = look_at(key_look, federation, call.w_global, attack.colluders)
    return attack.ctx.replace(visible=visible, honest=trained.honest, look=look)


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


def aggregate(
    key: Key, rule: Aggregator, state: Any, received: Received, server_lr, action=None
) -> tuple[jax.Array, Any, Info]:
    """The next global model ``w_global - server_lr * update`` f32[d], the rule's state and info."""
    update, state, info = rule(key, state, received, action)
    return received.w_global - server_lr * update, state, info
