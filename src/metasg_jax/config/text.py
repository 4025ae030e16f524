"""Values of settings from their text, by the type that a field declares."""

import types
import typing
from typing import Any, Literal

from metasg_jax.errors import ConfigError
from metasg_jax.registry import number

_SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_field(cls: type, name: str, text: str, place: str) -> Any:
    """The value of a field of a settings class; its range is for the class's ``check``.

    Args:
        cls: ``GameConfig``, ``FLConfig`` or another dataclass with type hints.
        name: of the field.
        text: several values have commas between them; ``none`` is None where the field may be that.
        place: what messages begin with.

    Raises:
        ConfigError: for a text that is no value of the field's type.

    Example:
        >>> from metasg_jax.config import GameConfig
        >>> read_field(GameConfig, "hidden", "64,32", "hidden")
        (64, 32)
    """
    return _read(typing.get_type_hints(cls)[name], text, place)


def _read(hint, text: str, place: str) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if text not in parts:
            raise ConfigError(f"{place}: one of {', '.join(parts)}")
        return text
    if origin in (types.UnionType, typing.Union):  # of a type and None
        return None if text.lower() == "none" else _read(parts[0], text, place)
    if origin is tuple:
        each = text.split(",") if text else []
        if parts[-1] is not ... and len(each) != len(parts):
            raise ConfigError(f"{place}: {len(parts)} values, with commas between them")
        return tuple(_read(parts[0], value.strip(), place) for value in each)
    if hint is bool:
        if text.lower() not in _SWITCH:
            raise ConfigError(f"{place}: one of {', '.join(_SWITCH)}")
        return _SWITCH[text.lower()]
    if hint is int:
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{place} is not a whole number") from None
    return number(text, place) if hint is float else text
