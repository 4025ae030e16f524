"""Checks that all settings share; each raises ConfigError and names the field."""

import numpy as np

from metasg_jax.errors import ConfigError
from metasg_jax.limits import MOST, SEEDS


def require_count(name: str, value, least: int = 1, most: int = MOST) -> None:
    """A whole number that arrays can be as long as."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    require(
        bool(whole and least <= value <= most), name, value, f"at least {least}, at most {most:,}"
    )


def require_seed(name: str, value) -> None:
    """JAX's keys keep 32 bits of a seed: beyond them another seed would be the same."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    require(bool(whole and 0 <= value < SEEDS), name, value, f"at least 0, below 2**32 = {SEEDS:,}")


def require(condition: bool, field: str, value, allowed: str) -> None:
    """Raises ConfigError where the condition fails: field, value and what is allowed."""
    if not condition:
        raise ConfigError(f"{field} = {value!r}: {allowed}")
