"""The defender that a server of one's own uses: ``load_defender("v3")``.

Weights and cards of those that are shipped lie in ``shipped/``, a directory each.
"""

from metasg_jax.defender.defender import Defender, DefenderState, load_defender
from metasg_jax.defender.files import save_defender, shipped

__all__ = ["Defender", "DefenderState", "load_defender", "save_defender", "shipped"]
