"""A registry is a literal dict whose missing keys teach: list of names and a near match."""

import difflib
from typing import TypeVar

T = TypeVar("T")


class UnknownNameError(KeyError, ValueError):
    """A name that is not registered; the message lists what is, and the nearest match."""

    def __str__(self) -> str:
        return str(self.args[0])


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
