"""What a server can tell of each client of a round: scale-free, label-free, from its side alone.

A family is ``(rows, server) -> f32[n, k]`` with names for its k columns, one file each. Values are
sorted or relative, so that no class, id or scale is special.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from metasg_jax.features import classes as _classes
from metasg_jax.features import cosines as _cosines
from metasg_jax.features import influence as _influence
from metasg_jax.features import inputs as _inputs
from metasg_jax.features import norms as _norms
from metasg_jax.features import root as _root
from metasg_jax.features.base import ServerData
from metasg_jax.features.layout import Layout, layout_of
from metasg_jax.registry import Registry


class Family(NamedTuple):
    """Features that are computed, and go missing, together.

    Attributes:
        compute: ``(rows, server) -> f32[n, k]``.
        names: of its k columns.
        needs: what must be there: of ``root_update``, ``apply``, ``last``.
    """

    compute: Callable
    names: tuple[str, ...]
    needs: tuple[str, ...] = ()


FEATURES = Registry(
    "feature family",
    {
        "norms": Family(_norms.norms, _norms.NAMES),
        "cosines": Family(_cosines.cosines, _cosines.NAMES),
        "root": Family(_root.root, _root.NAMES, ("root_update",)),
        "classes": Family(_classes.classes, _classes.NAMES, ("last",)),
        "inputs": Family(_inputs.inputs, _inputs.NAMES),
        "root_inputs": Family(_inputs.root_inputs, _inputs.ROOT_NAMES, ("root_update",)),
        "influence": Family(_influence.influence, _influence.NAMES, ("apply",)),
    },
)

NAMES = tuple(name for family in FEATURES.values() for name in family.names)
"""Names of all columns, in order."""

FAMILY_OF = tuple(i for i, family in enumerate(FEATURES.values()) for _ in family.names)
"""The place in :data:`FEATURES` of each column's family."""

VERSION = hashlib.sha256("\n".join(NAMES).encode()).hexdigest()[:12]
"""Weights belong to the features that they were trained on: names in their order, hashed."""

__all__ = [
    "FAMILY_OF", "FEATURES", "NAMES", "VERSION", "Family", "Layout", "ServerData", "layout_of",
]  # fmt: skip
