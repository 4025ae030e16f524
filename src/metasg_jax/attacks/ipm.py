"""Inner product manipulation (Xie et al., UAI 2020)."""

import jax.numpy as jnp

from metasg_jax.attacks.base import AttackBase, seen
from metasg_jax.attacks.statistics import honest_mean
from metasg_jax.struct import field


class IPM(AttackBase):
    """All colluders send ``-scale`` times the mean of the honest updates.

    A scale below 1 stays inside the honest cloud (beats Krum); a large one turns the mean around.

    Attributes:
        scale: positive.
        knowledge: ``all``, or ``own``: the mean of what the colluders would have sent honestly.
    """

    scale: float = 1.0
    knowledge: str = field(static=True, default="all", choices=("all", "own"))

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d], every row ``-scale * mean(honest)``."""
        row = -self.scale * honest_mean(ctx)
        return jnp.broadcast_to(row[None], seen(ctx).shape), state, {}
