"""Sums over clients, written so that a CPU runs them at the speed of memory."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

# Above this many rows unrolled code compiles slowly, and a product or a sort is used instead.
MAX_UNROLLED = 32


def weighted_sum(weights: jax.Array, rows: jax.Array | Sequence[jax.Array]) -> jax.Array:
    """``sum_i weights_i rows_i``: f32[d] from f32[n] and f32[n, d] (or n rows f32[d]).

    Unrolled, it fuses with what made the rows; ``rows.mean(0)`` is tens of times slower, and a
    product makes XLA copy the rows when they are batched over rollouts and the weights are not.
    """
    weights = weights.astype(rows[0].dtype)  # wider under jax_enable_x64
    if len(rows) > MAX_UNROLLED:
        return matmul(weights, jnp.asarray(rows))
    total = weights[0] * rows[0]
    for i in range(1, len(rows)):
        total = total + weights[i] * rows[i]
    return total


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a @ b`` in float32 on an accelerator too, whose own default keeps ten bits of a mantissa.

    A CPU has no other precision, and XLA leaves its fast products out there where one is named,
    which takes a round 1.7 times as long.
    """
    precision = None if jax.default_backend() == "cpu" else jax.lax.Precision.HIGHEST
    return jnp.matmul(a, b, precision=precision)


def shares(weights: jax.Array) -> jax.Array:
    """Weights f32[n], at least 0, divided by their sum; all 0 where that is 0.

    A floor under the sum would be another rule for small weights: of two weights of 1e-20 nothing
    would be left.
    """
    total = weights.sum()
    return weights / jnp.where(total > 0, total, 1.0)


def row_norms(rows: jax.Array) -> jax.Array:
    """Euclidean norms f32[n] of f32[n, d]."""
    return safe_sqrt(row_squares(rows))


@jax.custom_jvp
def row_squares(rows: jax.Array) -> jax.Array:
    """Squared norms f32[n] of f32[n, d]; not finite for a hostile row, but its derivative is.

    What is masked afterwards has derivative 0, and 0 times the row's NaN would be NaN: so entries
    that are not finite count as 0 in the derivative. Masked before, the rows would be read twice.
    """
    return jnp.sum(jnp.square(rows), axis=1)


@row_squares.defjvp
def _(primals, tangents):
    (rows,), (change,) = primals, tangents
    finite = jnp.where(jnp.isfinite(rows), rows, 0.0)
    return row_squares(rows), 2 * jnp.sum(finite * change, axis=1)


@jax.custom_jvp
def ratio(x: jax.Array, y: jax.Array) -> jax.Array:
    """``x / y``, with a derivative whose parts stay in float32's range where ``x / y`` does.

    JAX's has 1 / y^2, which is 0 from y = 1e19 on, where a row still has a norm.
    """
    return x / y


@ratio.defjvp
def _(primals, tangents):
    (x, y), (change, other) = primals, tangents
    quotient = x / y
    return quotient, (change - quotient * other) / y


def safe_sqrt(squares: jax.Array) -> jax.Array:
    """The square root of values >= 0, with a derivative of 0 at 0 in place of an infinite one.

    A coordinate in which all rows agree, a dead pixel's weight, has no deviation, and its infinite
    derivative times 0 would make every gradient through a round NaN.
    """
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def largest_divisor(count: int, most: int) -> int:
    """The largest divisor of ``count`` that is at most ``most`` (at least 1).

    Example:
        >>> largest_divisor(12, 5), largest_divisor(7, 5)
        (4, 1)
    """
    return next(k for k in range(min(count, most), 0, -1) if count % k == 0)
