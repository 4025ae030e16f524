"""Distances between updates by one matrix product."""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.order import median_window, order_statistics


def squared_distances(updates: jax.Array, present: jax.Array) -> jax.Array:
    """Squared distances f32[n, n] between rows; +inf to and from absent rows, 0 on the diagonal.

    By the Gram matrix of the centred rows: uncentred, the difference of large squares cancels in
    float32 when clients almost agree.
    """
    # at the median: a far row would drag a mean away, and cost the others their digits
    centre = order_statistics(updates, present, median_window(present))
    centred = jnp.where(present[:, None], updates - centre[None], 0.0)
    gram = jnp.matmul(centred, centred.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.diagonal(gram)
    distances = jnp.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0.0)
    n = updates.shape[0]
    # rows whose squares overflow are far from all others, and from each other: inf - inf is NaN
    distances = jnp.where(jnp.isnan(distances), jnp.inf, distances)
    distances = jnp.where(jnp.eye(n, dtype=bool), 0.0, distances)
    return jnp.where(present[:, None] & present[None, :], distances, jnp.inf)
