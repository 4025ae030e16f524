"""Presets: Python files whose docstring says which settings are the paper's and what they gave."""

from metasg_jax.presets import cpu, paper, smoke
from metasg_jax.registry import Registry

PRESETS = Registry("preset", {"smoke": smoke, "cpu": cpu, "paper": paper})

# what `metasg pretrain` takes when no preset is named
DEFAULT_PRESET = {"digits": "cpu", "mnist": "cpu", "fashion_mnist": "cpu", "cifar10": "cpu"}

__all__ = ["DEFAULT_PRESET", "PRESETS"]
