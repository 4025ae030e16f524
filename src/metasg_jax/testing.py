"""Small inputs and games for tests, doctests and notebooks."""

import jax.numpy as jnp

from metasg_jax.types import Received


def received(updates, weights=None, root_update=None) -> Received:
    """A round's updates as the server would hold them, from nested lists or arrays [n, d].

    Args:
        updates: [n, d].
        weights: [n]; ones by default.
        root_update: [d] or None.
    """
    updates = jnp.asarray(updates, jnp.float32)
    n, d = updates.shape
    return Received(
        updates=updates,
        weights=jnp.ones((n,)) if weights is None else jnp.asarray(weights, jnp.float32),
        client_ids=jnp.arange(n, dtype=jnp.int32),
        w_global=jnp.zeros((d,)),
        root_update=None if root_update is None else jnp.asarray(root_update, jnp.float32),
        round=jnp.zeros((), jnp.int32),
    )
