"""Flower (flwr, 1.42 or later): a strategy that defends, and attacks to try a federation with.

Three lines put the shipped defender into a server: see docs/flower.md.
"""

try:
    import flwr  # noqa: F401
except ImportError as error:
    raise ImportError("Flower is missing: pip install 'metasg-jax[flower]'") from error

from metasg_jax.integrations.flower.images import poison_data, poisoned
from metasg_jax.integrations.flower.in_process import InProcessGrid
from metasg_jax.integrations.flower.poison import poison
from metasg_jax.integrations.flower.records import to_params, to_record
from metasg_jax.integrations.flower.root import RootSGD
from metasg_jax.integrations.flower.strategy import TrustedFedAvg

__all__ = [
    "InProcessGrid",
    "RootSGD",
    "TrustedFedAvg",
    "poison",
    "poison_data",
    "poisoned",
    "to_params",
    "to_record",
]
