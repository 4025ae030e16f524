"""signSGD with majority vote (Bernstein et al., ICLR 2019)."""

import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.presence import count_rejected, present_rows
from metasg_jax.numerics import weighted_sum


class SignMajority(AggregatorBase):
    """``scale`` times the sign that most updates have, a coordinate at a time.

    update = scale * sign(sum_i sign(u_i)); 0 where votes are equal. One client has one vote,
    whatever its weight. Every coordinate moves by ``scale``, so it takes the place of a learning
    rate, and must fall for training to converge.

    Attributes:
        scale: positive, in the units of an update.

    Example:
        >>> from metasg_jax.testing import received
        >>> SignMajority(scale=1.0)(None, (), received([[9.0], [-1.0], [-2.0]]))[0].tolist()
        [-1.0]
    """

    scale: float = 1e-3

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {rejected: i32[]}); zero where no row is present."""
        updates, present = present_rows(received)
        # absent rows are zero rows here, and have no vote
        votes = weighted_sum(jnp.ones(present.shape[0], updates.dtype), jnp.sign(updates))
        rejected = count_rejected(received, present)
        return self.scale * jnp.sign(votes), state, {"rejected": rejected}
