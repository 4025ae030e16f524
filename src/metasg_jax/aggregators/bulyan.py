"""Bulyan (El Mhamdi, Guerraoui, Rouault; ICML 2018), over Krum."""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.geometry import centred_gram, squared_distances
from metasg_jax.aggregators.meamed import mean_around_median
from metasg_jax.aggregators.presence import count_rejected, remaining_byzantine
from metasg_jax.errors import ConfigError


class Bulyan(AggregatorBase):
    """Chooses theta = n - 2f rows by Krum, then averages theta - 2f values around their median.

    Krum chooses one row at a time and is scored again on the rows that are left, by their
    r - f - 2 nearest others where r are left (at least one). With one such neighbour, two rows that
    are nearest to each other always tie: then the sum of the distances to all rows that are left
    decides, and the first index last. Of the chosen rows, each coordinate's theta - 2f values
    nearest to the median are averaged, as :class:`~metasg_jax.aggregators.MeaMed` does.

    The paper names no tie. Some implementations average all theta rows: that is another rule.

    Attributes:
        f: assumed number of malicious clients among the n sampled; n must be at least 4f + 3, so
            10 clients allow 1.

    Example:
        >>> from metasg_jax.testing import received
        >>> rows = [[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [90.0]]
        >>> Bulyan(f=1)(None, (), received(rows))[0].tolist()
        [3.0]
    """

    f: float = 1.0

    def check_clients(self, n: int) -> None:
        """Refuses an ``f`` that is too large for n clients.

        Raises:
            ConfigError: where n < 4f + 3.
        """
        if n < 4 * self.f + 3:
            most = (n - 3) // 4
            allowed = f"at most {most}" if most >= 0 else "none, not even 0"
            raise ConfigError(
                f"Bulyan: f = {self.f:g}: {allowed} with num_sampled = {n}, "
                "because n must be at least 4 f + 3"
            )

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {selected: bool[n], rejected: i32[]}); zero where no row is present."""
        gram, present = centred_gram(received)
        f = remaining_byzantine(self.f, present)
        chosen = jnp.maximum(present.sum() - 2 * f, 1)
        selected = iterated_krum(squared_distances(gram, present), present, f, chosen)
        return (
            mean_around_median(received.updates, selected, chosen - 2 * f),
            state,
            {"selected": selected, "rejected": count_rejected(received, present)},
        )


def iterated_krum(
    distances: jax.Array, present: jax.Array, f: jax.Array, chosen: jax.Array
) -> jax.Array:
    """Which rows bool[n] are among the ``chosen`` that Krum takes one by one.

    Args:
        distances: squared, f32[n, n], +inf to absent rows.
        present: bool[n].
        f: f32[], what is left of the bound after rows were rejected.
        chosen: f32[], how many to take; never more than are present.
    """
    # a product needn't be symmetric to the last digit, and ties must be ties
    distances = jnp.maximum(distances, distances.T)
    # sorted once: a row that was taken only drops out of the order
    order = jnp.argsort(distances, axis=1)
    ordered = jnp.take_along_axis(distances, order, axis=1)

    def take(i, left):
        neighbours = jnp.maximum(left.sum() - f - 2, 1)
        counts = left[order]
        # the row itself is among them, at distance 0
        near = counts & (jnp.cumsum(counts, axis=1) <= neighbours + 1)
        scores = jnp.sum(jnp.where(near, ordered, 0.0), axis=1)
        first = left & (scores == jnp.min(jnp.where(left, scores, jnp.inf)))
        totals = jnp.sum(jnp.where(left[None], distances, 0.0), axis=1)
        totals = jnp.where(first, totals, jnp.inf)
        # the first of these, also where all sums overflow
        best = jnp.argmax(first & (totals == totals.min()))
        return left & ~((jnp.arange(left.shape[0]) == best) & (i < chosen))

    return present & ~jax.lax.fori_loop(0, present.shape[0], take, present)
