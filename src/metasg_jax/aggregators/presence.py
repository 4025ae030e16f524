"""Which rows of a round are there: a client's update is hostile input."""

import jax
import jax.numpy as jnp

from metasg_jax.numerics import matmul, row_norms, row_squares
from metasg_jax.types import Received


def presence(received: Received) -> jax.Array:
    """Which rows are present, bool[n].

    A row is absent where its weight is not a positive number, or where it holds a NaN, an infinity
    or entries so large that its squared norm is not finite in float32 (about 1.8e19).
    """
    squares = row_squares(received.updates)
    return (received.weights > 0) & jnp.isfinite(received.weights) & jnp.isfinite(squares)


def present_rows(received: Received) -> tuple[jax.Array, jax.Array]:
    """The updates with every absent row set to zero, and which rows are present.

    Returns:
        (f32[n, d], bool[n], see :func:`presence`).
    """
    present = presence(received)
    # select, don't multiply: 0 * NaN is NaN
    return jnp.where(present[:, None], received.updates, 0.0), present


def present_norms(received: Received, present: jax.Array) -> jax.Array:
    """Norms f32[n] of the updates, 0 for absent rows.

    Of the updates as received: their sum of squares is then computed once, for this and for
    :func:`presence`.
    """
    return jnp.where(present, row_norms(received.updates), 0.0)


@jax.custom_jvp
def present_products(updates: jax.Array, present: jax.Array, vector: jax.Array) -> jax.Array:
    """Scalar products f32[n] of the updates as received with f32[d]; 0 for absent rows.

    Zeroed first, the rows would be written out once more: so they are in the derivative only, where
    0 times what an absent row holds may be NaN.
    """
    return jnp.where(present, matmul(updates, vector), 0.0)


@present_products.defjvp
def _(primals, tangents):
    updates, present, vector = primals
    change, _, turn = tangents
    clean = jnp.where(present[:, None], updates, 0.0)
    tangent = jnp.where(present, matmul(change, vector), 0.0) + matmul(clean, turn)
    return present_products(updates, present, vector), tangent


def usable_root(root: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The server's own update f32[d], 0 unless its squared norm is finite; whether it is, bool[].

    The server's training may diverge too, from a model that clients spoilt.
    """
    usable = jnp.isfinite(row_squares(root[None])[0])
    return jnp.where(usable, root, 0.0), usable


def count_rejected(received: Received, present: jax.Array) -> jax.Array:
    """How many rows i32[] were sent (their weight is not 0) and are absent nevertheless.

    The ``info["rejected"]`` of every rule and pre-aggregator: of the weights and of ``present``
    alone, so it costs no pass over the rows.
    """
    return jnp.sum((received.weights != 0) & ~present, dtype=jnp.int32)


def remaining_byzantine(f: float | jax.Array, present: jax.Array) -> jax.Array:
    """The Byzantine bound left once ``n - present`` rows were rejected: max(f - rejected, 0)."""
    rejected = present.shape[0] - present.sum()
    return jnp.maximum(f - rejected, 0.0)
