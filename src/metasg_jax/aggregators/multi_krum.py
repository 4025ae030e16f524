"""MultiKrum (Blanchard et al., NeurIPS 2017, section 4)."""

import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.geometry import centred_gram, mixture, squared_distances
from metasg_jax.aggregators.krum import krum_scores
from metasg_jax.aggregators.presence import count_rejected, remaining_byzantine


class MultiKrum(AggregatorBase):
    """Mean of the m updates with the best Krum scores, unweighted.

    Rows are scored once, not again after each choice; the first index wins a tie. Without ``m``,
    m = n - f. Never more than the present rows, and always one.

    Attributes:
        f: assumed number of malicious clients among the n sampled, below n / 2.
        m: how many updates are averaged, from 1 to n; None for n - f. 1 is Krum.

    Example:
        >>> from metasg_jax.testing import received
        >>> rows = [[0.0], [1.0], [2.0], [90.0]]
        >>> MultiKrum(f=1)(None, (), received(rows))[0].tolist()
        [1.0]
    """

    f: float = 2.0
    m: float | None = None

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {selected: bool[n], rejected: i32[]}); zero where no row is present."""
        gram, present = centred_gram(received)
        f = remaining_byzantine(self.f, present)
        scores = krum_scores(squared_distances(gram, present), present, f)
        m = present.sum() - f if self.m is None else self.m
        # stable, so that the first of equals comes first; absent rows come last
        ranks = jnp.argsort(jnp.argsort(scores))
        selected = (ranks < jnp.maximum(m, 1)) & present
        weights = selected / jnp.maximum(selected.sum(), 1)
        info = {"selected": selected, "rejected": count_rejected(received, present)}
        return mixture(weights, received.updates, present), state, info
