"""Local model poisoning (Fang et al., USENIX Security 2020), its deviation form."""

import jax.numpy as jnp

from metasg_jax.attacks.base import AttackBase, seen
from metasg_jax.attacks.statistics import honest_moments
from metasg_jax.struct import field


class LMP(AttackBase):
    """All colluders send ``mean - z * std * sign(mean)``: per coordinate, against the honest way.

    The deviation form of the directed-deviation attack, the paper's for partial knowledge, with the
    deterministic ``z`` in place of a draw from [3, 4] standard deviations.

    Attributes:
        z: how many standard deviations against the mean's sign.
        knowledge: ``all``, or ``own``: moments of what the colluders would have sent honestly.
    """

    z: float = 2.0
    knowledge: str = field(static=True, default="all", choices=("all", "own"))

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d], every row the same."""
        mean, std = honest_moments(ctx)
        row = mean - self.z * std * jnp.sign(mean)
        return jnp.broadcast_to(row[None], seen(ctx).shape), state, {}
