"""Frozen dataclasses that are pytrees, told apart by class.

``jax.tree_util.register_dataclass``, and ``flax.struct`` with it, makes tree structures that
compare equal for different classes with as many fields (jax 0.10.2): a jit that takes a rule as an
argument may then run the program of another rule. Structures made here compare classes too.
"""

import dataclasses
import operator
from typing import Any, Self, dataclass_transform

import jax


def field(*, static: bool = False, choices: tuple[str, ...] = (), **kwargs) -> Any:
    """A field; a ``static`` one is part of the tree's structure: changing it recompiles.

    ``choices`` are the values that a static string may take; :mod:`metasg_jax.registry` reads them.
    """
    return dataclasses.field(metadata={"static": static, "choices": choices}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Struct:
    """Base class: its subclasses are frozen dataclasses and pytrees."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True)(cls)
        _register(cls)

    def replace(self, **changes) -> Self:
        """A copy with other values in some fields."""
        return dataclasses.replace(self, **changes)  # pyrefly: ignore


def _register(cls) -> None:
    fields = dataclasses.fields(cls)
    static = tuple(f.name for f in fields if f.metadata.get("static"))
    traced = tuple(f.name for f in fields if f.name not in static)
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in traced)

    read, read_static = _reader(traced), _reader(static)

    def flatten(node):
        return read(node), read_static(node)

    def flatten_with_keys(node):
        values, aux = flatten(node)
        return tuple(zip(keys, values, strict=True)), aux

    def unflatten(aux, values):
        # a call of a jitted function rebuilds every Struct of its result: not by __init__, which
        # sets a frozen class's fields one by one
        node = object.__new__(cls)
        node.__dict__.update(zip(traced, values, strict=True))
        node.__dict__.update(zip(static, aux, strict=True))
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


def _reader(names: tuple[str, ...]):
    """``node -> tuple`` of these fields: every call of a jitted function reads its arguments so."""
    if len(names) > 1:
        return operator.attrgetter(*names)  # a fourth of the time of a loop over getattr
    return lambda node: tuple(getattr(node, name) for name in names)
