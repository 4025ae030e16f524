"""Clipping, then the coordinate-wise median (the "clipping median" of Li et al., NeurIPS 2022)."""

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.norms import clip_factors
from metasg_jax.aggregators.order import median_window, order_statistics
from metasg_jax.aggregators.presence import count_rejected, presence, present_norms


class ClippedMedian(AggregatorBase):
    """Clips every update to ``max_norm``, then takes the median of each coordinate.

    Attributes:
        max_norm: positive; 2 (MNIST) and 20 (CIFAR-10) in the RL-attack paper.

    Example:
        >>> from metasg_jax.testing import received
        >>> ClippedMedian(max_norm=1.0)(None, (), received([[9.0], [0.5], [8.0]]))[0].tolist()
        [1.0]
    """

    max_norm: float = 2.0

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {rejected: i32[]})."""
        present = presence(received)
        factors = clip_factors(present_norms(received, present), self.max_norm)
        window = median_window(present)
        update = order_statistics(received.updates, present, window, factors)
        return update, state, {"rejected": count_rejected(received, present)}
