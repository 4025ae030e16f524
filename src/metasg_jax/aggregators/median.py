"""Coordinate-wise median (Yin et al., ICML 2018)."""

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.order import median_window, order_statistics
from metasg_jax.aggregators.presence import count_rejected, presence


class Median(AggregatorBase):
    """Median of each coordinate; the mean of the two middle values for an even count.

    Example:
        >>> from metasg_jax.testing import received
        >>> Median()(None, (), received([[1.0], [2.0], [9.0], [4.0]]))[0].tolist()
        [3.0]
    """

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {rejected: i32[]})."""
        present = presence(received)
        update = order_statistics(received.updates, present, median_window(present))
        return update, state, {"rejected": count_rejected(received, present)}
