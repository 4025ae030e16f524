"""Clipping updates to a norm."""

import jax
import jax.numpy as jnp


def clip_factors(norms: jax.Array, max_norm: jax.Array | float) -> jax.Array:
    """Factors in [0, 1] that bring each norm to at most ``max_norm`` (which may be +inf)."""
    return jnp.minimum(1.0, max_norm / jnp.maximum(norms, 1e-12))


def median_norm(norms: jax.Array, present: jax.Array) -> jax.Array:
    """Median of the present norms; 0 where no row is present."""
    n, count = present.shape[0], present.sum()
    ordered = jnp.sort(jnp.where(present, norms, jnp.inf))
    low, high = jnp.clip((count - 1) // 2, 0, n - 1), jnp.clip(count // 2, 0, n - 1)
    return jnp.where(count > 0, 0.5 * (ordered[low] + ordered[high]), 0.0)
