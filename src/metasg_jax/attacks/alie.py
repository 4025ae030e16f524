"""A little is enough (Baruch et al., NeurIPS 2019)."""

import jax.numpy as jnp
from scipy.special import ndtri

from metasg_jax.attacks.base import AttackBase, seen
from metasg_jax.attacks.statistics import honest_moments
from metasg_jax.struct import field


class ALIE(AttackBase):
    """All colluders send ``mean - z * std`` of the honest updates, per coordinate (ddof 0).

    Attributes:
        z: how many standard deviations; :func:`supporters_z` has the paper's formula, to be given
            the population: from a round's (n, m) = (10, 2) it is 0.
        knowledge: ``all``, or ``own``: moments of what the colluders would have sent honestly, as
            in the paper. A single one has no deviation, and sends its honest update.
    """

    z: float = 1.5
    knowledge: str = field(static=True, default="all", choices=("all", "own"))

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d]; with a single visible row the deviation is 0 and that row is sent."""
        mean, std = honest_moments(ctx)
        row = mean - self.z * std
        return jnp.broadcast_to(row[None], seen(ctx).shape), state, {}


def supporters_z(num_clients: int, num_malicious: int) -> float:
    """The largest z that leaves colluders a majority around them (algorithm 3 of the paper).

    ``s = floor(N / 2 + 1) - M`` honest clients have to be farther out than the colluders:
    ``z = Phi^-1((N - M - s) / (N - M))``.

    Example:
        >>> round(supporters_z(100, 20), 3), round(supporters_z(50, 24), 3)
        (0.286, 1.426)
    """
    supporters = num_clients // 2 + 1 - num_malicious
    honest = num_clients - num_malicious
    return float(ndtri((honest - supporters) / honest))
