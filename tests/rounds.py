"""Rounds as NumPy arrays: built without compiling anything, unlike those of metasg_jax.testing."""

import numpy as np

from metasg_jax.types import Received


def round_of(rows, weights=None, root=None) -> Received:
    rows = np.asarray(rows, np.float32)
    n, d = rows.shape
    return Received(
        updates=rows,
        weights=np.ones(n, np.float32) if weights is None else np.asarray(weights, np.float32),
        client_ids=np.arange(n, dtype=np.int32),
        w_global=np.zeros(d, np.float32),
        root_update=None if root is None else np.asarray(root, np.float32),
        round=np.int32(0),
    )


def honest_round(seed=0, n=10, d=7, weights=None) -> Received:
    """Rows around a common direction, which is the root update; nothing is tied."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=d)
    return round_of(direction + 0.5 * rng.normal(size=(n, d)), weights, direction)


def with_rows(got: Received, where, value) -> Received:
    """The round with ``updates[where] = value``."""
    updates = got.updates.copy()
    updates[where] = value
    return got.replace(updates=updates)


def with_weights(got: Received, where, value) -> Received:
    """The round with ``weights[where] = value``."""
    weights = got.weights.copy()
    weights[where] = value
    return got.replace(weights=weights)


def take(got: Received, rows) -> Received:
    """The round of these rows only, in this order."""
    return got.replace(
        updates=got.updates[rows], weights=got.weights[rows], client_ids=got.client_ids[rows]
    )
