"""The summaries of one round that observations share: quantiles, norms, cosines and drift."""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.norms import median_norm
from metasg_jax.aggregators.presence import present_rows
from metasg_jax.game.observations.head import flat_head, head_bias
from metasg_jax.numerics import row_norms, safe_sqrt, weighted_sum
from metasg_jax.types import Model, Received

_TINY = 1e-12
_QUANTILES = (0.0, 0.1, 0.25, 0.75, 0.9, 1.0)
_COSINE_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_ROOT_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
NUM_STATISTICS = len(_QUANTILES) + len(_COSINE_QUANTILES) + len(_ROOT_QUANTILES) + 4 + 9 + 2
"""Size of :func:`round_statistics`, plus the root loss and its change, which observations add."""


def round_statistics(model: Model, received: Received) -> jax.Array:
    """The scale-free summaries of one round, f32[...]; finite for any input.

    A round of which nothing is present gives zeros in place of every quantile.

    Raises:
        ValueError: where ``received.root_update`` is None.
    """
    updates, present = present_rows(received)
    count = present.sum()
    root = received.root_update
    if root is None:
        raise ValueError("this observation needs received.root_update, the server's own update")
    norms = row_norms(updates)
    middle = jnp.maximum(median_norm(norms, present), _TINY)
    root_norm = jnp.maximum(safe_sqrt(jnp.vdot(root, root)), _TINY)
    log_norms = jnp.log(jnp.maximum(norms, 1e-6 * middle) / middle)

    # between rows, on the last layer: as telling as on all of it, and a twentieth of the work
    head = jax.vmap(lambda u: flat_head(model, u))(updates)
    head = head / jnp.maximum(row_norms(head), _TINY)[:, None]
    cosines = head @ head.T
    n = updates.shape[0]
    pairs = present[:, None] & present[None, :] & jnp.tri(n, k=-1, dtype=bool)
    root_cosines = updates @ root / (jnp.maximum(norms, _TINY) * root_norm)

    share = present.astype(updates.dtype) / jnp.maximum(count, 1)
    mean = weighted_sum(share, updates)
    mean_norm = jnp.maximum(safe_sqrt(jnp.vdot(mean, mean)), _TINY)
    # sum over coordinates of the variance over rows
    spread = safe_sqrt(jnp.maximum(share @ norms**2 - mean_norm**2, 0.0)) / middle

    bias = jax.vmap(lambda u: head_bias(model, u))(updates)
    bias_mean = share @ bias
    scale = jnp.maximum(safe_sqrt(share @ jnp.sum(bias**2, axis=1)), _TINY)
    drift = jnp.sort(bias_mean) / scale
    extremes = jnp.sort(jnp.where(present[:, None], bias, 0.0).min(axis=0)) / scale
    return jnp.concatenate(
        [
            masked_quantiles(log_norms, present, _QUANTILES),
            masked_quantiles(cosines.reshape(-1), pairs.reshape(-1), _COSINE_QUANTILES),
            masked_quantiles(root_cosines, present, _ROOT_QUANTILES),
            jnp.stack(
                [
                    jnp.log(middle / root_norm),
                    spread,
                    jnp.vdot(mean, root) / (mean_norm * root_norm),
                    count.astype(updates.dtype) / n,
                ]
            ),
            drift[:3],
            drift[-3:],
            extremes[:3],
        ]
    )


def masked_quantiles(values: jax.Array, mask: jax.Array, quantiles) -> jax.Array:
    """Linearly interpolated quantiles of the marked values; 0 where none is marked."""
    count = mask.sum()
    ordered = jnp.sort(jnp.where(mask, values, jnp.inf))
    place = jnp.asarray(quantiles, values.dtype) * jnp.maximum(count - 1, 0)
    low = jnp.floor(place).astype(jnp.int32)
    high = jnp.minimum(low + 1, jnp.maximum(count - 1, 0))
    part = place - low
    result = ordered[low] * (1 - part) + jnp.where(part > 0, ordered[high], 0.0) * part
    return jnp.where(count > 0, result, 0.0)
