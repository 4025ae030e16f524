"""From a round's updates to what a policy reads: :func:`describe`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.aggregators.order import medians
from metasg_jax.features import FAMILY_OF, FEATURES, NAMES
from metasg_jax.features.base import ServerData, rows_of
from metasg_jax.features.memory import ClientMemory, init_memory, recall, remember
from metasg_jax.struct import Struct
from metasg_jax.types import Received

NUM_FEATURES = len(NAMES)
NUM_COLUMNS = 4 * NUM_FEATURES + 2
"""Numbers about a client: features, deviations, both remembered, how often it was seen (twice)."""
NUM_CONTEXT = NUM_FEATURES + 3
"""Numbers about a round: medians of the features, rows present and sent, rounds so far."""
MEMORY = len(FEATURES)
"""The place of the memory in ``ClientView.known``, after the families."""
NUM_KNOWN = len(FEATURES) + 1

_LEAST_SPREAD = 0.01
_MOST = 8.0


class ClientView(Struct):
    """What a policy sees of a round: a set of clients and their context.

    Attributes:
        clients: f32[n, NUM_COLUMNS]; rows that are absent hold the mean of the others.
        round: f32[NUM_CONTEXT].
        present: bool[n].
        known: bool[NUM_KNOWN], which families and whether a memory is there; the columns of the
            others hold 0.
    """

    clients: jax.Array
    round: jax.Array
    present: jax.Array
    known: jax.Array


def view_spec(n: int) -> ClientView:
    """Shapes of a view of n clients."""
    spec: Any = jax.ShapeDtypeStruct
    return ClientView(
        clients=spec((n, NUM_COLUMNS), jnp.float32),
        round=spec((NUM_CONTEXT,), jnp.float32),
        present=spec((n,), jnp.bool_),
        known=spec((NUM_KNOWN,), jnp.bool_),
    )


def begin(num_slots: int) -> ClientMemory:
    """The memory before the first round; without a memory of clients one slot is enough."""
    return init_memory(num_slots, NUM_FEATURES)


def describe(
    received: Received,
    server: ServerData,
    memory: ClientMemory,
    remembers: bool = True,
    without: tuple[str, ...] = (),
) -> tuple[ClientView, ClientMemory]:
    """What the server can tell of each client, and its memory after the round.

    Reads the updates, the server's own images and model and what it remembers: nothing else is
    handed in. ``received.client_ids`` are slots of the memory.

    Args:
        received: of the round.
        server: what is missing there switches off the families that need it.
        memory: of :func:`begin` or of the round before.
        remembers: static; whether clients are known again.
        without: static; families that are left out, to save their cost.
    """
    rows = rows_of(received, server.layout)
    known = [
        name not in without and all(_there(need, received, server) for need in family.needs)
        for name, family in FEATURES.items()
    ]
    n = rows.norms.shape[0]
    columns = [
        family.compute(rows, server) if there else jnp.zeros((n, len(family.names)), jnp.float32)
        for family, there in zip(FEATURES.values(), known, strict=True)
    ]
    now = jnp.concatenate(columns, axis=1)
    now = jnp.where(jnp.isfinite(now), now, 0.0)

    present = rows.present
    middle = medians(now, present)
    spread = medians(jnp.abs(now - middle[None]), present)
    # a running mean over some ten rounds: one round of few clients is a poor judge of its spread
    rate = 1 / jnp.minimum(memory.rounds + 1, 10.0)
    spread = memory.spread + rate * (spread - memory.spread)
    apart = (now - middle[None]) / (1.5 * spread + _LEAST_SPREAD)[None]
    apart = jnp.clip(apart, -_MOST, _MOST)

    seen = jnp.concatenate([now, apart], axis=1)
    if remembers:
        before, counts = recall(memory, received.client_ids)
        after = remember(memory, received.client_ids, seen, present, spread)
        # of whom nothing is remembered, what is seen now is the best guess
        before = jnp.where(counts[:, None] > 0, before, seen)
    else:
        before, counts = jnp.zeros_like(seen), jnp.zeros((n,), jnp.float32)
        after = memory.replace(spread=spread, rounds=memory.rounds + 1)
    often = jnp.stack([jnp.log1p(counts), counts > 0], axis=1)
    clients = jnp.concatenate([seen, before, often], axis=1)
    count = present.sum()
    mean = jnp.where(present[:, None], clients, 0.0).sum(axis=0) / jnp.maximum(count, 1)
    sent = (received.weights != 0).sum()
    share = count / jnp.maximum(sent, 1)
    context = jnp.stack([jnp.log1p(count), share, memory.rounds / (memory.rounds + 20.0)])
    view = ClientView(
        clients=jnp.where(present[:, None], clients, mean[None]),
        round=jnp.concatenate([middle, context]),
        present=present,
        known=jnp.array([*known, remembers]),
    )
    return view, after


def known_columns(known: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which columns of clients bool[NUM_COLUMNS] and of the round bool[NUM_CONTEXT] are there."""
    family = known[np.asarray(FAMILY_OF)]
    memory = known[MEMORY]
    remembered = family & memory
    clients = jnp.concatenate([family, family, remembered, remembered, jnp.stack([memory] * 2)])
    return clients, jnp.concatenate([family, jnp.ones((3,), bool)])


def is_blind(known: jax.Array) -> jax.Array:
    """Whether a server has nothing of its own to hold beside the updates, of bool[NUM_KNOWN].

    Then neither the root update nor the influence on its own images is there.
    """
    names = list(FEATURES)
    return ~(known[names.index("root")] | known[names.index("influence")])


def _there(need: str, received: Received, server: ServerData) -> bool:
    return {
        "root_update": received.root_update is not None,
        "apply": server.apply is not None and server.root_x is not None,
        "last": server.layout.last is not None,
    }[need]
