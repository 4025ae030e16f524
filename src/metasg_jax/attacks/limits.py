"""What the numbers of an attack may be."""

from metasg_jax.limits import (
    ABOVE_ONE,
    COUNT,
    FINITE,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    STEPS,
    Limit,
    check_fields,
)
from metasg_jax.types import Attack

# by name of the field, which means the same in every attack
LIMITS: dict[str, Limit] = {
    "scale": POSITIVE,
    "boost": POSITIVE,
    "sigma": POSITIVE,
    "level": NOT_NEGATIVE,
    "radius": POSITIVE,
    "threshold": POSITIVE,
    "z": FINITE,
    "fraction": SHARE,
    "share": (lambda v: 0 <= v < 1, "in [0, 1)"),
    "proximal": NOT_NEGATIVE,
    "noise": NOT_NEGATIVE,
    "b": ABOVE_ONE,
    "max_scale": ABOVE_ONE,
    "max_lr": POSITIVE,
    "max_steps": STEPS,
    "steps": STEPS,
    "parts": COUNT,
    "tries": STEPS,
}


def check_attack(attack: Attack) -> Attack:
    """Returns the attack if its numbers are in range.

    Raises:
        ConfigError: naming the first field that is not, its value and what is allowed.
    """
    check_fields(attack, **LIMITS)
    return attack
