"""Ranges of fields, checked where a variant enters: inside it its floats are traced."""

import math
from collections.abc import Callable
from typing import Any

from metasg_jax.errors import ConfigError

# a test of a value, and how its message says what passes
Limit = tuple[Callable[[Any], bool], str]

KNOB: Limit = (lambda v: -1 <= v <= 1, "in [-1, 1]")
SHARE: Limit = (lambda v: 0 <= v <= 1, "in [0, 1]")
FINITE: Limit = (math.isfinite, "a finite number")
POSITIVE: Limit = (lambda v: 0 < v < math.inf, "above 0 and finite")
NOT_NEGATIVE: Limit = (lambda v: 0 <= v < math.inf, "at least 0 and finite")
ABOVE_ONE: Limit = (lambda v: 1 < v < math.inf, "above 1 and finite")
COUNT: Limit = (lambda v: 1 <= v < math.inf, "at least 1")
# a bound that may be none
BOUND: Limit = (lambda v: v > 0, "above 0; inf for none")


def check_fields(variant, **limits: Limit) -> None:
    """Compares the fields that a variant has with their limits; a field that is None passes.

    Raises:
        ConfigError: naming the first field out of range, its value and what is allowed.
    """
    for name, (holds, allowed) in limits.items():
        value = getattr(variant, name, None)
        if value is not None and not holds(value):
            raise ConfigError(f"{type(variant).__name__}: {name} = {value:g}: {allowed}")
