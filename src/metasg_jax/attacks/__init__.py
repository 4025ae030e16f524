"""Attacks: one file each. ``plan`` says how malicious clients train, ``craft`` what they send.

Untargeted attacks raise the global loss; backdoor attacks plant a trigger. An attacker type of the
game pairs one of each (either may be ``none``).
"""

from metasg_jax.attacks.alie import ALIE
from metasg_jax.attacks.base import KNOWLEDGE, AttackBase, AttackContext
from metasg_jax.attacks.bfl import BFL
from metasg_jax.attacks.eb import EB
from metasg_jax.attacks.ipm import IPM
from metasg_jax.attacks.lmp import LMP
from metasg_jax.attacks.none import NoAttack
from metasg_jax.attacks.plan import LocalPlan, honest_plan
from metasg_jax.attacks.rl import RL
from metasg_jax.attacks.table import AttackTable, attack_table
from metasg_jax.registry import Registry

UNTARGETED = Registry(
    "untargeted attack",
    {"none": NoAttack, "ipm": IPM, "alie": ALIE, "lmp": LMP, "eb": EB, "rl": RL},
)
BACKDOOR = Registry("backdoor attack", {"none": NoAttack, "bfl": BFL})

__all__ = [
    "ALIE",
    "BACKDOOR",
    "BFL",
    "EB",
    "IPM",
    "KNOWLEDGE",
    "LMP",
    "RL",
    "UNTARGETED",
    "AttackBase",
    "AttackContext",
    "AttackTable",
    "LocalPlan",
    "NoAttack",
    "attack_table",
    "honest_plan",
]
