"""Mean around the median (Xie, Koyejo, Gupta, 2018: "Generalized Byzantine-tolerant SGD")."""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.order import Window, median_window, order_statistics
from metasg_jax.aggregators.presence import presence, remaining_byzantine
from metasg_jax.rows import weighted_sum


class MeaMed(AggregatorBase):
    """Mean of each coordinate's n - f values nearest to its median.

    Values at equal distance share the places that are left between them, so that the order of the
    rows doesn't matter.

    Attributes:
        f: assumed number of malicious clients among the n sampled, below n / 2.

    Example:
        >>> from metasg_jax.testing import received
        >>> MeaMed(f=1)(None, (), received([[0.0], [1.0], [2.0], [3.0], [90.0]]))[0].tolist()
        [1.5]
    """

    f: float = 2.0

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, info); zero where no row is present."""
        present = presence(received)
        kept = present.sum() - remaining_byzantine(self.f, present)
        return mean_around_median(received.updates, present, kept), state, {}


def mean_around_median(updates: jax.Array, present: jax.Array, kept: jax.Array) -> jax.Array:
    """Mean f32[d] of each coordinate's ``kept`` values nearest to its median over present rows.

    Two selections and no sort: the median, then the distance to it that ``kept`` values don't
    exceed.

    Args:
        updates: f32[n, d], as received.
        present: bool[n], the rows that count.
        kept: f32[], at most their number; taken as 1 below that.
    """
    kept = jnp.maximum(kept, 1.0)
    median = order_statistics(updates, present, median_window(present))
    away = jnp.abs(updates - median[None])
    last = jnp.ceil(kept).astype(jnp.int32) - 1
    one, zero = jnp.ones(()), jnp.zeros(())
    bound = order_statistics(away, present, Window(last, last, one, zero, zero))
    inside = present[:, None] & (away < bound[None])
    tied = present[:, None] & (away == bound[None])

    def total(values):
        return weighted_sum(jnp.ones(values.shape[0]), values)

    places = kept - total(inside * 1.0)
    share = places / jnp.maximum(total(tied * 1.0), 1.0)
    return (
        total(jnp.where(inside, updates, 0.0)) + share * total(jnp.where(tied, updates, 0.0))
    ) / kept
