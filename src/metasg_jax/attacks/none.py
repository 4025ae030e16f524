"""No attack: every client is honest."""

from metasg_jax.attacks.base import AttackBase


class NoAttack(AttackBase):
    """Every client is honest (the type "NA" of the literature)."""
