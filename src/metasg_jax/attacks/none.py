"""No attack: every client is honest."""

from flax import struct

from metasg_jax.attacks.base import AttackBase


@struct.dataclass
class NoAttack(AttackBase):
    """Every client is honest (the type "NA" of the literature)."""
