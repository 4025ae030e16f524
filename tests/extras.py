"""Packages that need not be installed: what needs one is skipped without it."""

import pytest

EXTRAS = {"flower": "flwr", "pettingzoo": "pettingzoo", "gymnax": "gymnax"}


def skip_without_extra(text: str) -> None:
    """Skips the test where the text imports or names an integration whose package is missing."""
    for extra, package in EXTRAS.items():
        if f"integrations.{extra}" in text:
            pytest.importorskip(package, reason=f"an extra: pip install 'metasg-jax[{extra}]'")
