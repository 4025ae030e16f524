"""Parameters of which a few are enough at once."""

from collections.abc import Iterable

import pytest


def slow_but(fast: Iterable, values: Iterable) -> list:
    """All values as parameters; those that are not ``fast`` are slow ones."""
    fast = tuple(fast)
    return [v if v in fast else pytest.param(v, marks=pytest.mark.slow) for v in values]
