"""Min-Max (Shejwalkar and Houmansadr, NDSS 2021)."""

import jax.numpy as jnp

from metasg_jax.attacks.base import AttackBase
from metasg_jax.attacks.perturbation import PERTURBATIONS, cloud, crafted_rows, largest_gamma
from metasg_jax.struct import field


class MinMax(AttackBase):
    """All colluders send ``m = mean - gamma p``, no farther from any honest row than two of these.

    gamma is the largest with ``max_i |m - u_i| <= max_ij |u_i - u_j|``. The paper finds it by
    bisection; each i's constraint is quadratic in gamma, and solved here.

    Attributes:
        perturbation: p: ``unit`` is mean / |mean|, ``sign`` is sign(mean), ``std`` the honest
            deviation of each coordinate, whose sign is arbitrary.
        knowledge: ``all``, or ``own``: what the colluders would have sent honestly stands for the
            honest rows. A single one has no distance to keep to, and sends its honest update.
    """

    perturbation: str = field(static=True, default="unit", choices=PERTURBATIONS)
    knowledge: str = field(static=True, default="all", choices=("all", "own"))

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d], every row the same."""
        honest = cloud(ctx, self.perturbation)
        rest = honest.squares - honest.distances.max()
        gammas = largest_gamma(honest.length, honest.along, rest)
        gamma = jnp.where(honest.chosen, gammas, jnp.inf).min()
        gamma = jnp.where(honest.chosen.any(), gamma, 0.0)
        return crafted_rows(ctx, honest, gamma), state, {}
