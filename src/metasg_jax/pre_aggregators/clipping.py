"""Clipping of every norm, before any rule."""

import jax.numpy as jnp

from metasg_jax.aggregators.norms import clip_factors
from metasg_jax.aggregators.presence import count_rejected, present_norms, present_rows
from metasg_jax.pre_aggregators.base import PreAggregatorBase


class Clipping(PreAggregatorBase):
    """Scales every update down to a norm of at most ``max_norm``; shorter ones stay as they are.

    ``clipping+mean`` is :class:`~metasg_jax.aggregators.NormBound`, and ``clipping+median`` is
    :class:`~metasg_jax.aggregators.ClippedMedian`, which are faster: they write no clipped rows.

    Attributes:
        max_norm: positive, in the units of an update; tune it.

    Example:
        >>> from metasg_jax.testing import received
        >>> clipped, _, _ = Clipping(max_norm=1.0)(None, (), received([[3.0], [0.5]]))
        >>> clipped.updates[:, 0].tolist()
        [1.0, 0.5]
    """

    max_norm: float = 1.0

    def __call__(self, key, state, received, action=None):
        """(received, state, info); absent rows become zero rows of weight 0.

        info: {clipped: share of present rows, rejected: i32[]}.
        """
        updates, present = present_rows(received)
        factors = clip_factors(present_norms(received, present), self.max_norm)
        clipped = jnp.sum(present & (factors < 1), dtype=updates.dtype) / jnp.maximum(
            present.sum(), 1
        )
        weights = jnp.where(present, received.weights, 0.0)
        out = received.replace(updates=updates * factors[:, None], weights=weights)
        rejected = count_rejected(received, present)
        return out, state, {"clipped": clipped, "rejected": rejected}
