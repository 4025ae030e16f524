"""Registries, dicts whose missing keys teach, and the strings that make a variant of one.

A variant as a string is ``name:knob=value,knob=value``; the knobs are the fields of its class.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from metasg_jax.errors import ConfigError, UnknownNameError

T = TypeVar("T")


def unknown_name(kind: str, name: object, known) -> UnknownNameError:
    """Builds the error for ``name``, which is none of ``known`` (an iterable of names).

    Example:
        >>> print(unknown_name("rule", "trimed_mean", ["mean", "trimmed_mean"]))
        unknown rule 'trimed_mean': use one of mean, trimmed_mean; did you mean 'trimmed_mean'?
    """
    names = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UnknownNameError(f"unknown {kind} {name!r}: use one of {', '.join(names)}{hint}")


class Registry(dict[str, T]):
    """A dict from name to variant. ``kind`` names what it holds, for the error message.

    Example:
        >>> rules = Registry("rule", {"mean": 1, "median": 2})
        >>> rules["mean"]
        1
    """

    def __init__(self, kind: str, variants: dict[str, T]):
        super().__init__(variants)
        self.kind = kind

    def __missing__(self, name):
        raise unknown_name(self.kind, name, self)


_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no")


def parse_variant(known: Mapping[str, Any], text: str, place: str, **given) -> Any:
    """Builds a registered variant from its string.

    Args:
        known: a registry, or several in one dict.
        text: ``name`` or ``name:knob=value,..``.
        place: what the string is for; messages begin with it.
        given: values for fields of that name, where the class has them and the string is silent.

    Raises:
        UnknownNameError: for a name that is not registered.
        ConfigError: for an unknown knob, one that is set twice, or a value of the wrong kind.

    Example:
        >>> from metasg_jax.aggregators import AGGREGATORS
        >>> parse_variant(AGGREGATORS, "krum:f=3", "rule", f=2.0)
        Krum(f=3.0)
    """
    name, _, knobs = text.strip().partition(":")
    cls = known[name]
    knobs_of = settable(cls)
    fields = {each.name for each in dataclasses.fields(cls)}
    values = {key: value for key, value in given.items() if key in fields}
    written = set()
    for item in filter(None, knobs.split(",")):
        knob, _, value = item.partition("=")
        if knob not in knobs_of:
            names = ", ".join(knobs_of) or "none"
            raise ConfigError(f"{place}: {name} in {text!r} has no knob {knob!r}; it has: {names}")
        if knob in written:
            raise ConfigError(f"{place}: {knob} in {text!r} is set twice")
        written.add(knob)
        values[knob] = _value(knobs_of[knob], value, f"{place}: {knob} = {value} in {text!r}")
    return cls(**values)


def settable(cls: type) -> dict[str, dataclasses.Field]:
    """The fields that a string can set: numbers, and strings of which the choices are known."""

    def fits(field: dataclasses.Field) -> bool:
        is_number = field.default is None or isinstance(field.default, (bool, int, float))
        return bool(field.metadata.get("choices")) or (is_number and field.name != "model")

    return {each.name: each for each in dataclasses.fields(cls) if fits(each)}


def number(text: str, place: str) -> float:
    """A float from a string.

    Raises:
        ConfigError: where it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{place} is not a number") from None


def _value(field: dataclasses.Field, text: str, place: str) -> Any:
    choices = field.metadata.get("choices")
    if choices:
        if text not in choices:
            raise ConfigError(f"{place}: one of {', '.join(choices)}")
        return text
    if isinstance(field.default, bool):
        if text.lower() not in _TRUE + _FALSE:
            raise ConfigError(f"{place}: one of {', '.join(_TRUE + _FALSE)}")
        return text.lower() in _TRUE
    value = number(text, place)
    if isinstance(field.default, int):
        if not math.isfinite(value) or value != int(value):
            raise ConfigError(f"{place}: a whole number")
        return int(value)
    return value
