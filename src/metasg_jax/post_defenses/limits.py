"""Ranges of fields, checked where a defence enters: inside it they are traced."""

from collections.abc import Callable

from metasg_jax.errors import ConfigError

# a test of a value, and how its message says what passes
Limit = tuple[Callable[[float], bool], str]

KNOB: Limit = (lambda v: -1 <= v <= 1, "in [-1, 1]")
SHARE: Limit = (lambda v: 0 <= v <= 1, "in [0, 1]")
POSITIVE: Limit = (lambda v: v > 0, "above 0")
COUNT: Limit = (lambda v: v >= 1, "at least 1")


def check_fields(defence, **limits: Limit) -> None:
    """Compares fields with their limits.

    Raises:
        ConfigError: naming the first field out of range, its value and what is allowed.
    """
    for field, (holds, allowed) in limits.items():
        value = getattr(defence, field)
        if not holds(value):
            raise ConfigError(f"{type(defence).__name__}: {field} = {value:g}: {allowed}")
