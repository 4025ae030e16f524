"""Min-Sum (Shejwalkar and Houmansadr, NDSS 2021)."""

from metasg_jax.attacks.base import AttackBase
from metasg_jax.attacks.perturbation import PERTURBATIONS, cloud, crafted_rows, largest_gamma
from metasg_jax.struct import field


class MinSum(AttackBase):
    """All colluders send ``m = mean - gamma p``, no farther from all honest rows than one of these.

    gamma is the largest with ``sum_i |m - u_i|^2 <= max_i sum_j |u_i - u_j|^2``. The paper finds it
    by bisection; the constraint is quadratic in gamma, and solved here.

    Attributes:
        perturbation: as in :class:`~metasg_jax.attacks.MinMax`.
        knowledge: as in :class:`~metasg_jax.attacks.MinMax`.
    """

    perturbation: str = field(static=True, default="unit", choices=PERTURBATIONS)
    knowledge: str = field(static=True, default="all", choices=("all", "own"))

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d], every row the same."""
        honest = cloud(ctx, self.perturbation)
        count, most = honest.chosen.sum(), honest.distances.sum(axis=1).max()
        gamma = largest_gamma(
            count * honest.length, honest.along.sum(), honest.squares.sum() - most
        )
        return crafted_rows(ctx, honest, gamma), state, {}
