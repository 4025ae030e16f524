"""Krum (Blanchard et al., NeurIPS 2017)."""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.geometry import centred_gram, squared_distances, sums_of_ranks
from metasg_jax.aggregators.presence import count_rejected, remaining_byzantine


class Krum(AggregatorBase):
    """The update whose n - f - 2 nearest others are nearest, by squared distance.

    The first index wins a tie. At least one neighbour counts, whatever ``f``.

    Attributes:
        f: assumed number of malicious clients among the n sampled, below n / 2.

    Example:
        >>> from metasg_jax.testing import received
        >>> rows = [[0.0], [0.1], [0.2], [9.0]]
        >>> round(float(Krum(f=1)(None, (), received(rows))[0][0]), 2)
        0.0
    """

    f: float = 2.0

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {selected: i32[], rejected: i32[]}); zero where no row is present."""
        gram, present = centred_gram(received)
        f = remaining_byzantine(self.f, present)
        scores = krum_scores(squared_distances(gram, present), present, f)
        selected = jnp.argmin(scores).astype(jnp.int32)
        update = jnp.where(present[selected], received.updates[selected], 0.0)
        info = {"selected": selected, "rejected": count_rejected(received, present)}
        return update, state, info


def krum_scores(distances: jax.Array, present: jax.Array, f: jax.Array) -> jax.Array:
    """Sums f32[n] of each row's n - f - 2 smallest squared distances to others; +inf if absent.

    Args:
        distances: squared, f32[n, n], +inf to absent rows.
        present: bool[n]; n in the formula is their number.
        f: f32[], what is left of the bound after rows were rejected.
    """
    neighbours = jnp.maximum(present.sum() - f - 2, 1)
    # rank 0 is the row itself; absent rows rank behind
    return jnp.where(present, sums_of_ranks(distances, 1, neighbours), jnp.inf)
