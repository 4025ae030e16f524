"""Clipping updates to a norm."""

import jax
import jax.numpy as jnp

from metasg_jax.numerics import ratio


def clip_factors(norms: jax.Array, max_norm: jax.Array | float) -> jax.Array:
    """Factors in [0, 1] that bring each norm to at most ``max_norm`` (which may be +inf)."""
    longer = norms > max_norm
    # select before and after: +inf times a derivative of 0 would be NaN
    return jnp.where(longer, ratio(jnp.asarray(max_norm), jnp.where(longer, norms, 1.0)), 1.0)


def times_median(multiple: jax.Array, norms: jax.Array, present: jax.Array) -> jax.Array:
    """A multiple of the median norm, f32[]; +inf where the multiple is, whatever the median."""
    unbounded = jnp.isinf(multiple)
    bound = jnp.where(unbounded, 0.0, multiple) * median_norm(norms, present)
    return jnp.where(unbounded, jnp.inf, bound)


def median_norm(norms: jax.Array, present: jax.Array) -> jax.Array:
    """Median of the present norms; 0 where no row is present."""
    n, count = present.shape[0], present.sum()
    ordered = jnp.sort(jnp.where(present, norms, jnp.inf))
    low, high = jnp.clip((count - 1) // 2, 0, n - 1), jnp.clip(count // 2, 0, n - 1)
    return jnp.where(count > 0, 0.5 * (ordered[low] + ordered[high]), 0.0)
