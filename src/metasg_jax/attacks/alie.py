"""A little is enough (Baruch et al., NeurIPS 2019)."""

import jax.numpy as jnp

from metasg_jax.attacks.base import AttackBase, seen
from metasg_jax.attacks.statistics import honest_moments


class ALIE(AttackBase):
    """All colluders send ``mean - z * std`` of the honest updates, per coordinate (ddof 0).

    Attributes:
        z: how many standard deviations. Where the original formula for z from the numbers of
            clients is wanted, give its value for the population: from (n, m) = (10, 2) it is 0.
    """

    z: float = 1.5
    knowledge = "all"

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d]; with a single visible row the deviation is 0 and that row is sent."""
        mean, std = honest_moments(ctx)
        row = mean - self.z * std
        return jnp.broadcast_to(row[None], seen(ctx).shape), state, {}
