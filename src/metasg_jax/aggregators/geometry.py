"""Distances between updates by one matrix product."""

import jax
import jax.numpy as jnp

from metasg_jax.rows import weighted_sum


def squared_distances(updates: jax.Array, present: jax.Array) -> jax.Array:
    """Squared distances f32[n, n] between rows; +inf to and from absent rows, 0 on the diagonal.

    By the Gram matrix of the centred rows: uncentred, the difference of large squares cancels in
    float32 when clients almost agree.
    """
    count = jnp.maximum(present.sum(), 1)
    mean = weighted_sum(present / count, updates)
    centred = jnp.where(present[:, None], updates - mean[None], 0.0)
    gram = jnp.matmul(centred, centred.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.diagonal(gram)
    distances = jnp.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0.0)
    n = updates.shape[0]
    distances = jnp.where(jnp.eye(n, dtype=bool), 0.0, distances)
    return jnp.where(present[:, None] & present[None, :], distances, jnp.inf)
