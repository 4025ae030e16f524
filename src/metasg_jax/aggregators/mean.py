"""The weighted mean: federated averaging (McMahan et al., AISTATS 2017)."""

import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.presence import count_rejected, present_rows
from metasg_jax.numerics import shares, weighted_sum


class Mean(AggregatorBase):
    """Weighted mean of the present rows: no defence. One finite row moves it anywhere.

    It spreads no NaN all the same: a row with a NaN, an infinity or a squared norm that overflows
    is left out and counted in ``info["rejected"]``, here as in every rule. If all rows are such,
    the update is zero and the count is n.

    Example:
        >>> from metasg_jax.testing import received
        >>> Mean()(None, (), received([[1.0, 2.0], [3.0, 6.0]]))[0].tolist()
        [2.0, 4.0]
    """

    weighted = True

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {rejected: i32[]}); zero where no row is present."""
        updates, present = present_rows(received)
        weights = shares(jnp.where(present, received.weights, 0.0))
        update = weighted_sum(weights, updates)
        return update, state, {"rejected": count_rejected(received, present)}
