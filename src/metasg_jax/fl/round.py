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
from metasg_jax.fl.colluders import look_at, second_pass
from metasg_jax.fl.federation import Attackers, Call, Federation, Squad
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
    key_positions, key_poison, *keys = jax.random.split(key, 2 + len(attackers.squads))
    weights = answer_weights(federation.fl, federation.data.sizes[call.client_ids])
    honest, crews = _plan(keys, federation, call, attackers, rule, weights)
    trained = _train((key_positions, key_poison), federation, call, honest, crews, needs_root)
    sent, states = trained.updates, []
    for crew, action in zip(crews, attackers.actions, strict=True):
        ctx = _look(crew, federation, call, trained)
        key_craft = jax.random.fold_in(crew.key, 1)
        table, kind, slot = crew.squad.table, crew.squad.kind, crew.squad.slot
        rows, state = table.craft(kind, slot, key_craft, crew.state, ctx, action)
        sent = merge_rows(crew.malicious, rows, sent)
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


class _Crew(NamedTuple):
    """One squad in one round, once it has planned.

    Attributes:
        squad: who.
        key: of all that it draws.
        malicious: bool[n], its members among the clients that were called.
        ctx: what it knew when it planned.
        plan: how its clients train; rows of others are not read.
        apart: bool[], whether they train in a pass of their own.
        state: of its attack.
    """

    squad: Squad
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


def _plan(keys, federation, call, attackers, rule, weights) -> tuple[LocalPlan, list[_Crew]]:
    """(the plan of n honest clients, the squads with theirs)."""
    honest = _honest(federation, len(call.client_ids), attackers.squads)
    member = [squad.members(call.client_ids, call.round) for squad in attackers.squads]
    colluders = sum(member, jnp.zeros(call.client_ids.shape, bool))
    crews = []
    for squad, malicious, state, action, key in zip(
        attackers.squads, member, attackers.states, attackers.actions, keys, strict=True
    ):
        ctx = AttackContext(
            malicious=malicious,
            colluders=colluders,
            member=jnp.where(malicious, call.client_ids - squad.first, -1),
            visible=None,
            weights=weights,
            w_global=call.w_global,
            plan=honest,
            round=call.round,
            num_malicious=squad.count,
            trigger_mask=squad.trigger_mask,
            trigger_pattern=squad.trigger_pattern,
            target=squad.target,
            rule=rule,
            num_clients=federation.fl.num_clients,
            server_lr=federation.fl.server_lr,
        )
        key_plan = jax.random.fold_in(key, 0)
        plan, state = squad.table.plan(squad.kind, squad.slot, key_plan, state, ctx, action)
        apart = squad.table.needs_second_pass(squad.kind)
        crews.append(_Crew(squad, key, malicious, ctx, plan, apart, state))
    return honest, crews


def _honest(federation: Federation, n: int, squads: tuple[Squad, ...]) -> LocalPlan:
    """The plan of ``n`` honest clients, with room for what the squads may fill."""
    fl, model = federation.fl, federation.model
    uses = tuple({name for squad in squads for name in squad.table.uses})
    steps = part_of(fl.local_steps, fl.steps_share)
    image_shape = federation.data.images.shape[1:]
    return honest_plan(n, image_shape, model.num_classes, fl.local_lr, steps, uses)


def _train(keys, federation, call, honest, crews, needs_root) -> _Trained:
    """All clients at once, and the server as one more of them if ``needs_root``."""
    (key_positions, key_poison), n = keys, len(call.client_ids)
    model, fl, data = federation.model, federation.fl, federation.data
    plan, owners = honest, call.client_ids
    for crew in crews:
        plan = merge_rows(crew.malicious & ~crew.apart, crew.plan, plan)
    if needs_root:
        owners = jnp.append(owners, data.sizes.shape[0] - 1)
        server = _honest(federation, 1, tuple(crew.squad for crew in crews))
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

    squads = [crew.squad for crew in crews]
    twice = [s.table.trains_twice(s.kind) for s in squads if s.table.some_train_twice]
    as_honest = None
    if twice:  # once for all squads
        as_honest = jax.lax.cond(jnp.stack(twice).any(), honestly, lambda: updates)
    return _Trained(updates, as_honest, trained[n] if needs_root else None)


def _look(crew: _Crew, federation: Federation, call: Call, trained: _Trained) -> AttackContext:
    """What a squad knows when it crafts: rows, its own second pass, and a way to judge them."""
    visible = trained.updates
    if crew.squad.table.second_pass_steps:
        row = second_pass(
            crew.key, federation, call, crew.squad, crew.plan, crew.malicious, trained.updates
        )
        visible = jnp.where((crew.malicious & crew.apart)[:, None], row[None], trained.updates)
    key_look = jax.random.fold_in(crew.key, 3)
    look = look_at(key_look, federation, call.w_global, crew.squad)
    return crew.ctx.replace(visible=visible, honest=trained.honest, look=look)


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
