"""Aggregation rules: one file each, all called ``rule(key, state, received, action=None)``.

They return ``(update f32[d], state, info)``; the server subtracts the update. A row of weight 0 or
with a non-finite entry is absent everywhere: n in a formula is the number of present rows, and an
assumed number of malicious clients shrinks by the rows that were rejected.
"""

from metasg_jax.aggregators.bulyan import Bulyan
from metasg_jax.aggregators.centered_clip import CenteredClip
from metasg_jax.aggregators.client_trust import ClientTrust
from metasg_jax.aggregators.clipped_median import ClippedMedian
from metasg_jax.aggregators.clipped_trimmed_mean import ClippedTrimmedMean
from metasg_jax.aggregators.composed import Composed
from metasg_jax.aggregators.crfl import CRFL
from metasg_jax.aggregators.deepsight import DeepSight
from metasg_jax.aggregators.flame import FLAME
from metasg_jax.aggregators.fltrust import FLTrust
from metasg_jax.aggregators.foolsgold import FoolsGold
from metasg_jax.aggregators.geometric_median import GeometricMedian
from metasg_jax.aggregators.krum import Krum
from metasg_jax.aggregators.mda import MDA
from metasg_jax.aggregators.meamed import MeaMed
from metasg_jax.aggregators.mean import Mean
from metasg_jax.aggregators.median import Median
from metasg_jax.aggregators.multi_krum import MultiKrum
from metasg_jax.aggregators.norm_bound import NormBound
from metasg_jax.aggregators.presence import present_rows
from metasg_jax.aggregators.sign_majority import SignMajority
from metasg_jax.aggregators.trimmed_mean import TrimmedMean
from metasg_jax.aggregators.trusted_trimmed_mean import TrustedTrimmedMean
from metasg_jax.aggregators.weak_dp import WeakDP
from metasg_jax.registry import Registry

AGGREGATORS = Registry(
    "rule",
    {
        "mean": Mean,
        "median": Median,
        "trimmed_mean": TrimmedMean,
        "clipped_trimmed_mean": ClippedTrimmedMean,
        "trusted_trimmed_mean": TrustedTrimmedMean,
        "client_trust": ClientTrust,
        "norm_bound": NormBound,
        "clipped_median": ClippedMedian,
        "krum": Krum,
        "multi_krum": MultiKrum,
        "geometric_median": GeometricMedian,
        "fltrust": FLTrust,
        "meamed": MeaMed,
        "centered_clip": CenteredClip,
        "sign_majority": SignMajority,
        "bulyan": Bulyan,
        "mda": MDA,
        "weak_dp": WeakDP,
        "crfl": CRFL,
        "foolsgold": FoolsGold,
        "flame": FLAME,
        "deepsight": DeepSight,
    },
)

__all__ = [
    "AGGREGATORS",
    "CRFL",
    "FLAME",
    "MDA",
    "Bulyan",
    "CenteredClip",
    "ClientTrust",
    "ClippedMedian",
    "ClippedTrimmedMean",
    "Composed",
    "DeepSight",
    "FLTrust",
    "FoolsGold",
    "GeometricMedian",
    "Krum",
    "MeaMed",
    "Mean",
    "Median",
    "MultiKrum",
    "NormBound",
    "SignMajority",
    "TrimmedMean",
    "TrustedTrimmedMean",
    "WeakDP",
    "present_rows",
]
