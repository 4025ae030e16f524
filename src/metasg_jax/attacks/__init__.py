"""Attacks: one file each. ``plan`` says how malicious clients train, ``craft`` what they send.

Untargeted attacks raise the global loss; backdoor attacks plant a trigger. An attacker type of the
game pairs one of each (either may be ``none``).
"""

from metasg_jax.attacks.alie import ALIE
from metasg_jax.attacks.base import KNOWLEDGE, AttackBase, AttackContext
from metasg_jax.attacks.bfl import BFL
from metasg_jax.attacks.blended_bfl import BlendedBFL
from metasg_jax.attacks.blended_ipm import BlendedIPM
from metasg_jax.attacks.brl import BRL
from metasg_jax.attacks.constant_shift import ConstantShift
from metasg_jax.attacks.dba import DBA
from metasg_jax.attacks.eb import EB
from metasg_jax.attacks.free_rider import FreeRider
from metasg_jax.attacks.gaussian import Gaussian
from metasg_jax.attacks.ipm import IPM
from metasg_jax.attacks.label_flip import LabelFlip
from metasg_jax.attacks.limits import check_attack
from metasg_jax.attacks.lmp import LMP
from metasg_jax.attacks.lmp_krum import LMPKrum
from metasg_jax.attacks.lmp_trim import LMPTrim
from metasg_jax.attacks.mimic import Mimic
from metasg_jax.attacks.min_max import MinMax
from metasg_jax.attacks.min_sum import MinSum
from metasg_jax.attacks.neurotoxin import Neurotoxin
from metasg_jax.attacks.none import NoAttack
from metasg_jax.attacks.pgd import PGD
from metasg_jax.attacks.plan import LocalPlan, honest_plan
from metasg_jax.attacks.rl import RL
from metasg_jax.attacks.sign_flip import SignFlip
from metasg_jax.attacks.table import AttackTable, attack_table
from metasg_jax.attacks.tailored import Tailored
from metasg_jax.attacks.tailored_bfl import TailoredBFL
from metasg_jax.registry import Registry

UNTARGETED = Registry(
    "untargeted attack",
    {
        "none": NoAttack,
        "ipm": IPM,
        "alie": ALIE,
        "lmp": LMP,
        "lmp_krum": LMPKrum,
        "lmp_trim": LMPTrim,
        "min_max": MinMax,
        "min_sum": MinSum,
        "eb": EB,
        "sign_flip": SignFlip,
        "gaussian": Gaussian,
        "label_flip": LabelFlip,
        "mimic": Mimic,
        "free_rider": FreeRider,
        "constant_shift": ConstantShift,
        "tailored": Tailored,
        "rl": RL,
        "blended_ipm": BlendedIPM,
    },
)
BACKDOOR = Registry(
    "backdoor attack",
    {
        "none": NoAttack,
        "bfl": BFL,
        "dba": DBA,
        "pgd": PGD,
        "neurotoxin": Neurotoxin,
        "tailored_bfl": TailoredBFL,
        "brl": BRL,
        "blended_bfl": BlendedBFL,
    },
)

__all__ = [
    "ALIE",
    "BACKDOOR",
    "BFL",
    "BRL",
    "DBA",
    "EB",
    "IPM",
    "KNOWLEDGE",
    "LMP",
    "PGD",
    "RL",
    "UNTARGETED",
    "AttackBase",
    "AttackContext",
    "AttackTable",
    "BlendedBFL",
    "BlendedIPM",
    "ConstantShift",
    "FreeRider",
    "Gaussian",
    "LMPKrum",
    "LMPTrim",
    "LabelFlip",
    "LocalPlan",
    "Mimic",
    "MinMax",
    "MinSum",
    "Neurotoxin",
    "NoAttack",
    "SignFlip",
    "Tailored",
    "TailoredBFL",
    "attack_table",
    "check_attack",
    "honest_plan",
]
