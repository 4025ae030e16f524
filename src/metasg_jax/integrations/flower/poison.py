"""Attacks for a Flower ClientApp, so that anybody can test a federation of theirs.

The attacks are those of :mod:`metasg_jax.attacks`, by the same strings; what they know is what one
client knows.
"""

import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message

from metasg_jax.attacks.base import unlike
from metasg_jax.data import TRIGGERS
from metasg_jax.errors import ConfigError
from metasg_jax.fl.model_form import ModelForm
from metasg_jax.integrations.flower.images import ACTIVE, Session
from metasg_jax.integrations.flower.records import Arrays, as_record, own_arrays
from metasg_jax.integrations.flower.sight import (
    client_attack,
    client_context,
    no_action,
    poisons_data,
)
from metasg_jax.types import Attack

Mod = Callable[[Message, Context, Callable[[Message, Context], Message]], Message]

_STATE = "metasg-poison"
"""Where in a node's state its last honest updates are kept."""


def poison(
    attack: str | Callable[[Context], str | None],
    *,
    onset: int = 1,
    trigger: tuple[np.ndarray, np.ndarray] | str = "square",
    target: int = 0,
    num_classes: int = 10,
    memory: int = 4,
    arrays_key: str = "arrays",
) -> Mod:
    """A mod that makes a client malicious: ``ClientApp(mods=[poison("ipm:scale=5")])``.

    Model poisoning (``ipm``, ``alie``, ``sign_flip``, ``gaussian``, boosts) acts on the reply. Data
    poisoning (``label_flip``, ``bfl``) acts on the images, so the training function has to hand
    them to :func:`poisoned`, one line that changes nothing in an honest client.

    A client alone knows its own updates only; ``alie``, which needs a deviation, takes that of its
    last ``memory`` honest updates, and is honest in its first round.

    Args:
        attack: as ``name:knob=value``, see ``metasg list``; or a function of the node's context
            that returns such a string, or None for an honest node: then one app serves all nodes.
        onset: the first server round in which it attacks, from 1.
        trigger: of a backdoor: a registered name, or (mask, pattern), each [h, w, c] in [0, 1].
        target: the label that a stamped image gets.
        num_classes: C.
        memory: earlier honest updates of its own that it remembers, at least 0.
        arrays_key: of the model in the server's messages.

    Raises:
        UnknownNameError: for an attack or trigger that is not registered.
        ConfigError: for one that a client alone can't run, or numbers out of range; where the
            string depends on the context, when that is known.
    """
    if onset < 1:
        raise ConfigError(f"onset = {onset}: a server round, 1 or later")
    if memory < 0:
        raise ConfigError(f"memory = {memory}: at least 0")
    if not 0 <= target < num_classes:
        raise ConfigError(f"target = {target}: from 0 to {num_classes - 1}, num_classes - 1")
    if isinstance(trigger, str):
        TRIGGERS[trigger]  # raises, with a near match
    fixed = client_attack(attack) if isinstance(attack, str) else None

    def mod(message: Message, context: Context, call_next) -> Message:
        chosen = attack(context) if callable(attack) else attack
        if chosen is None or not message.metadata.message_type.startswith("train"):
            return call_next(message, context)
        # read before the training, which may empty the records of what it was sent
        sent = own_arrays(message.content.array_records[arrays_key])
        round = _round(message)
        mine = fixed or client_attack(chosen)
        if round < onset:
            reply = call_next(message, context)
            _remember(context, sent, reply, memory)
            return reply
        session = Session(mine, trigger, target, num_classes, _seed(context, round))
        token = ACTIVE.set(session)
        try:
            reply = call_next(message, context)
        finally:
            ACTIVE.reset(token)
        if poisons_data(mine) and not session.used:
            raise ConfigError(
                f"{chosen} poisons images: hand them to metasg_jax.integrations.flower.poisoned("
                "x, y) in the training function"
            )
        if reply.has_content():
            _craft(mine, context, sent, reply, session.seed, memory)
        return reply

    return mod


def _craft(
    attack: Attack, context: Context, sent: Arrays, reply: Message, seed: int, memory: int
) -> None:
    """Puts what the attack sends in the place of the honest model, which is remembered."""
    key, own = next(iter(reply.content.array_records.items()))
    form, before, after, row = _update(sent, own)
    earlier = _recalled(context, form.size)
    rows = jnp.asarray(np.stack([row, *earlier]))
    shape = (8, 8, 1)
    mask, pattern = TRIGGERS["square"](shape)
    ctx = client_context(rows, jnp.asarray(form.row(before)), shape, 2, mask, pattern, 0)
    state = attack.init(*rows.shape)
    key_craft, key_noise = jax.random.split(jax.random.key(seed))
    sends, _, _ = attack.craft(key_craft, state, ctx, no_action(attack))
    sends = unlike(key_noise, sends, jnp.asarray(attack.noise))
    model = form.moved(before, np.asarray(sends[0]), after)
    reply.content[key] = as_record(Arrays((name, model[name]) for name in sent))
    _store(context, [row, *earlier], memory)


def _remember(context: Context, sent: Arrays, reply: Message, memory: int) -> None:
    """An honest update from before the onset."""
    if not reply.has_content() or not memory:
        return
    form, _, _, row = _update(sent, next(iter(reply.content.array_records.values())))
    _store(context, [row, *_recalled(context, form.size)], memory)


def _update(sent: Arrays, own: ArrayRecord):
    """(form of the model, its leaves, those of the reply in the same order, update f32[d])."""
    named = own_arrays(own)
    if named.keys() != sent.keys():
        raise ConfigError(f"the reply has other arrays than the model: {', '.join(named)}")
    form = ModelForm(sent)
    before = form.arrays(sent, "sent")
    after = form.arrays(Arrays((name, named[name]) for name in sent), "reply")
    row = np.empty(form.size, np.float32)
    form.difference(before, after, row)
    return form, before, after, row


def _recalled(context: Context, size: int) -> list[np.ndarray]:
    kept = context.state.get(_STATE, {})
    return [a for a in (array.numpy() for array in kept.values()) if a.shape == (size,)]


def _store(context: Context, rows: list[np.ndarray], memory: int) -> None:
    if memory:
        record = {str(i): Array(row) for i, row in enumerate(rows[:memory])}
        context.state[_STATE] = ArrayRecord(record)


def _round(message: Message) -> int:
    for config in message.content.config_records.values():
        if "server-round" in config:
            return int(config["server-round"])
    return 1


def _seed(context: Context, round: int) -> int:
    """A seed of this client in this round; ids have 64 bits, too many for a key."""
    return zlib.crc32(f"{context.node_id},{round}".encode())
