"""Mean around the median (Xie, Koyejo, Gupta, 2018: "Generalized Byzantine-tolerant SGD")."""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.order import MAX_NETWORK, Window, median_window, order_statistics
from metasg_jax.aggregators.presence import count_rejected, presence, remaining_byzantine


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
        """(f32[d], state, {rejected: i32[]}); zero where no row is present."""
        present = presence(received)
        kept = present.sum() - remaining_byzantine(self.f, present)
        update = mean_around_median(received.updates, present, kept)
        return update, state, {"rejected": count_rejected(received, present)}


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
    last = jnp.ceil(kept).astype(jnp.int32) - 1
    nearest = Window(
        last,
        last,
        jnp.ones((), jnp.float32),
        jnp.zeros((), jnp.float32),
        jnp.zeros((), jnp.float32),
    )
    windows = jax.tree.map(lambda *w: jnp.stack(w), median_window(present), nearest)

    def select(i, found):
        median, _ = found
        values = jnp.where(i == 0, updates, jnp.abs(updates - median[None]))
        window = jax.tree.map(lambda leaf: leaf[i], windows)
        statistic = order_statistics(values, present, window)
        return jnp.where(i == 0, statistic, median), statistic

    # a loop, or XLA fuses the selections into what follows and makes them again for every row
    start = jnp.zeros_like(updates[0])
    kept = kept.astype(start.dtype)
    median, bound = jax.lax.fori_loop(0, 2, select, (start, start))

    def add(i, sums):
        nearer, at_bound, num_nearer, num_at_bound = sums
        away = jnp.abs(updates[i] - median)
        inside, tied = present[i] & (away < bound), present[i] & (away == bound)
        return (
            nearer + jnp.where(inside, updates[i], 0.0),
            at_bound + jnp.where(tied, updates[i], 0.0),
            num_nearer + inside,
            num_at_bound + tied,
        )

    n = updates.shape[0]
    sums = jax.lax.fori_loop(0, n, add, (start,) * 4, unroll=n <= MAX_NETWORK)
    nearer, at_bound, num_nearer, num_at_bound = sums
    # what is left of the places is shared among those at the bound
    share = (kept - num_nearer) / jnp.maximum(num_at_bound, 1.0)
    return (nearer + share * at_bound) / kept
