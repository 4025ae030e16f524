"""Norm bounding (Sun et al., 2019)."""

import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.norms import clip_factors
from metasg_jax.aggregators.presence import count_rejected, present_norms, present_rows
from metasg_jax.numerics import shares, weighted_sum


class NormBound(AggregatorBase):
    """Clips every update to ``max_norm``, then takes the weighted mean.

    Attributes:
        max_norm: positive, in the units of an update. Literature values run from 0.02 to 5
            according to learning rate and model: tune it.

    Example:
        >>> from metasg_jax.testing import received
        >>> NormBound(max_norm=1.0)(None, (), received([[3.0], [0.5]]))[0].tolist()
        [0.75]
    """

    weighted = True

    max_norm: float = 1.0

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {clipped: share of present rows, rejected: i32[]})."""
        updates, present = present_rows(received)
        factors = clip_factors(present_norms(received, present), self.max_norm)
        weights = shares(jnp.where(present, received.weights, 0.0))
        clipped = jnp.sum((factors < 1) & present, dtype=updates.dtype) / jnp.maximum(
            present.sum(), 1
        )
        info = {"clipped": clipped, "rejected": count_rejected(received, present)}
        return weighted_sum(weights * factors, updates), state, info
