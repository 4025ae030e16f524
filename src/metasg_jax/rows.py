"""Sums over clients, written so that a CPU runs them at the speed of memory."""

import jax
import jax.numpy as jnp

# Above this many rows the unrolled sum compiles slowly and a product wins.
_MAX_UNROLLED = 64


def weighted_sum(weights: jax.Array, rows: jax.Array) -> jax.Array:
    """``sum_i weights_i rows_i``: f32[d] from f32[n] and f32[n, d].

    Unrolled, it fuses with what made the rows; ``rows.mean(0)`` is tens of times slower, and a
    product makes XLA copy the rows when they are batched over rollouts and the weights are not.
    """
    if rows.shape[0] > _MAX_UNROLLED:
        return weights @ rows
    return sum(weight * row for weight, row in zip(weights, rows, strict=True))


def row_norms(rows: jax.Array) -> jax.Array:
    """Euclidean norms f32[n] of f32[n, d]."""
    return jnp.sqrt(jnp.sum(rows**2, axis=1))
