"""Coordinate-wise trimmed mean (Yin et al., ICML 2018)."""

import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.order import order_statistics, trimmed_window
from metasg_jax.aggregators.presence import count_rejected, presence


class TrimmedMean(AggregatorBase):
    """Mean of each coordinate without its floor(beta n) smallest and as many largest values.

    Attributes:
        beta: share trimmed at *each* side, in [0, 0.5).

    Example:
        >>> from metasg_jax.testing import received
        >>> rows = [[0.0], [1.0], [2.0], [3.0], [100.0]]
        >>> TrimmedMean(beta=0.2)(None, (), received(rows))[0].tolist()
        [2.0]
    """

    beta: float = 0.2

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {rejected: i32[]}); n is the number of present rows."""
        present = presence(received)
        # 0.2 * 10 must be 2 although 0.2f is a little more or less than a fifth
        cut = jnp.floor(self.beta * present.sum() + 1e-4)
        update = order_statistics(received.updates, present, trimmed_window(present, cut))
        return update, state, {"rejected": count_rejected(received, present)}
