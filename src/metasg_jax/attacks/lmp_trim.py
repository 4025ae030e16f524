"""Local model poisoning (Fang et al., USENIX Security 2020): against trimmed mean and median."""

import jax
import jax.numpy as jnp

from metasg_jax.attacks.base import AttackBase
from metasg_jax.attacks.statistics import honest_mean, reference_rows
from metasg_jax.struct import field


class LMPTrim(AttackBase):
    """Each colluder sends values just beyond the honest ones, on the side against their mean.

    Section IV.C of the paper, full knowledge. Per coordinate, with the honest mean positive, a
    value is drawn evenly from [b min, min] where the smallest honest value min is negative, and
    from [min / b, min] where it is positive; with the mean negative from [max, b max] or
    [max, max / b]. The paper draws parameters of local models; these are updates, as in
    the code of the reinforcement-learning attack's authors.

    Attributes:
        b: above 1; 2 in the paper.
        knowledge: ``all``, or ``own``: the range of what the colluders would have sent honestly.
    """

    b: float = 2.0
    knowledge: str = field(static=True, default="all", choices=("all", "own"))

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d], different for each colluder. ``key`` is consumed."""
        rows, chosen = reference_rows(ctx)
        some = chosen.any()
        low = jnp.where(chosen[:, None], rows, jnp.inf).min(axis=0)
        high = jnp.where(chosen[:, None], rows, -jnp.inf).max(axis=0)
        low, high = jnp.where(some, low, 0.0), jnp.where(some, high, 0.0)
        rising = honest_mean(ctx) > 0
        edge = jnp.where(rising, low, high)
        # away from the edge, on the far side of the honest values
        outwards = jnp.where(rising, edge < 0, edge > 0)
        far = jnp.where(outwards, self.b * edge, edge / self.b)
        draws = jax.random.uniform(key, rows.shape, jnp.float32)
        return edge[None] + draws * (far - edge)[None], state, {}
