"""Ranges of fields, checked where a variant enters: inside it its floats are traced."""

import math
from collections.abc import Callable
from typing import Any

from metasg_jax.errors import ConfigError

# a test of a value, and how its message says what passes
Limit = tuple[Callable[[Any], bool], str]

# What float32, in which everything is computed, can hold: above LARGEST is infinite in it, below
# TINY is 0 where subnormal numbers are flushed.
LARGEST, TINY = 3.4028234e38, 1.1754944e-38
MOST = 2**20
SEEDS = 2**32


def is_positive(v) -> bool:
    """Whether a number is above 0 and finite, and still so in float32."""
    return TINY <= v <= LARGEST


KNOB: Limit = (lambda v: -1 <= v <= 1, "in [-1, 1]")
SHARE: Limit = (lambda v: 0 <= v <= 1, "in [0, 1]")
FINITE: Limit = (lambda v: abs(v) <= LARGEST, "a finite number, in float32 too")
POSITIVE: Limit = (is_positive, "above 0 and finite, in float32 too")
NOT_NEGATIVE: Limit = (
    lambda v: v == 0 or is_positive(v),
    "at least 0 and finite, in float32 too",
)
ABOVE_ONE: Limit = (lambda v: 1 < v <= LARGEST, "above 1 and finite, in float32 too")
COUNT: Limit = (lambda v: 1 <= v <= MOST, f"at least 1, at most {MOST:,}")
# steps of a loop that can't be interrupted
STEPS: Limit = (lambda v: 1 <= v <= 10_000, "at least 1, at most 10,000")
# a bound that may be none
BOUND: Limit = (lambda v: is_positive(v) or v == math.inf, "above 0, in float32 too; inf for none")


def check_fields(variant, **limits: Limit) -> None:
    """Compares the fields that a variant has with their limits; a field that is None passes.

    Raises:
        ConfigError: naming the first field out of range, its value and what is allowed.
    """
    for name, (holds, allowed) in limits.items():
        value = getattr(variant, name, None)
        if value is not None and not holds(value):
            raise ConfigError(f"{type(variant).__name__}: {name} = {value:g}: {allowed}")
