"""Norm bounding with noise: weak differential privacy (Sun et al., 2019)."""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.norm_bound import NormBound
from metasg_jax.aggregators.presence import presence


class WeakDP(AggregatorBase):
    """Clips every update to ``max_norm``, takes the weighted mean and adds N(0, sigma^2) to it.

    Too little noise for a privacy guarantee, hence the name. Its norm is about sigma sqrt(d): keep
    that below ``max_norm``, or the model learns little but noise. No noise in a round without
    present rows.

    Attributes:
        max_norm: positive, in the units of an update, as of
            :class:`~metasg_jax.aggregators.NormBound`.
        sigma: at least 0, in the units of an update: of each coordinate, after averaging.
            Literature values run from 0.002 to 0.025.

    Example:
        >>> import jax
        >>> from metasg_jax.testing import received
        >>> rule = WeakDP(max_norm=1.0, sigma=0.0)
        >>> rule(jax.random.key(0), (), received([[3.0], [0.5]]))[0].tolist()
        [0.75]
    """

    weighted = True

    max_norm: float = 1.0
    sigma: float = 0.002

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {clipped: share of present rows, rejected: i32[]})."""
        update, _, info = NormBound(max_norm=self.max_norm)(None, (), received)
        noise = self.sigma * jax.random.normal(key, update.shape, jnp.float32)
        return update + jnp.where(presence(received).any(), noise, 0.0), state, info
