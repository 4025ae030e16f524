"""The worker of the peers, in an environment of its own: ``python -m benchmarks.peers``.

Imports nothing of this library and no JAX.
"""

import importlib.metadata
import platform

from benchmarks import peer_rules
from benchmarks.cases import Case
from benchmarks.worker import Makers, serve

PACKAGES = ("numpy", "torch", "byzfl", "flwr", "torchjd", "byzpy")


def makers_of(case: Case) -> Makers:
    """Who takes part in a case; libraries are imported when they are made."""
    if case.suite == "rules":
        return peer_rules.makers_of(case.settings)
    if case.suite == "rounds":
        from benchmarks import peer_rounds

        return peer_rounds.makers_of(case.settings)
    return {}


def versions() -> dict[str, str]:
    """Versions of the packages that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return {"Python of the peers": platform.python_version(), **found}


if __name__ == "__main__":
    serve(makers_of, versions())
