"""Calls of other libraries, ``call(rows f64[n, d], f) -> array``. Imports none of them at import."""

import importlib.util
import sys
import types
from collections.abc import Callable

import numpy as np

from tests.peers.inputs import examples_of

Call = Callable[[np.ndarray, int], np.ndarray]


def byzfl_calls() -> dict[str, Call]:
    """ByzFL on NumPy arrays."""
    _import_byzfl()
    from byzfl import aggregators as rules
    from byzfl.attacks import attacks

    return {
        "Average": lambda x, f: rules.Average()(x),
        "Median": lambda x, f: rules.Median()(x),
        "TrMean": lambda x, f: rules.TrMean(f=f)(x),
        "GeometricMedian": lambda x, f: rules.GeometricMedian()(x),
        "GeometricMedian, converged": lambda x, f: rules.GeometricMedian(nu=1e-9, T=2000)(x),
        "Krum": lambda x, f: rules.Krum(f=f)(x),
        "MultiKrum": lambda x, f: rules.MultiKrum(f=f)(x),
        "MDA": lambda x, f: rules.MDA(f=f)(x),
        "Meamed": lambda x, f: rules.Meamed(f=f)(x),
        "CenteredClipping": lambda x, f: rules.CenteredClipping(L=3, tau=1.5)(x),
        "CenteredClipping, second round": lambda x, f: _twice(rules.CenteredClipping(tau=1.5), x),
        "NNM": lambda x, f: rules.NNM(f=f)(x),
        "NNM, TrMean": lambda x, f: rules.TrMean(f=f)(rules.NNM(f=f)(x)),
        "Clipping": lambda x, f: rules.Clipping(c=1.5)(x),
        "Clipping, its input afterwards": lambda x, f: _argument_after(rules.Clipping(c=1.5), x),
        "Bucketing": lambda x, f: rules.Bucketing(s=2)(x),
        "SignFlipping": lambda x, f: attacks.SignFlipping()(x),
        "InnerProductManipulation": lambda x, f: attacks.InnerProductManipulation(tau=2.5)(x),
        "ALittleIsEnough": lambda x, f: attacks.ALittleIsEnough(tau=1.5)(x),
        "Mimic": lambda x, f: attacks.Mimic(epsilon=3)(x),
    }


def byzfl_torch_calls() -> dict[str, Call]:
    """The same on tensors of float32, to which ByzFL takes all others."""
    import torch

    def on_tensors(call):
        def seeded(x, f):
            torch.manual_seed(0)
            return call(torch.from_numpy(x).float(), f)

        return seeded

    return {name: on_tensors(call) for name, call in byzfl_calls().items()}


def flower_calls() -> dict[str, Call]:
    """Flower's functions behind its strategies; a model is a list of one layer."""
    from flwr.server.strategy import aggregate as rules

    def on_results(rule, *rest, weighted=False):
        def call(x, f):
            counts = examples_of(x) if weighted else [1] * len(x)
            results = [([row], count) for row, count in zip(x, counts, strict=True)]
            return rule(results, *(value(len(x), f) for value in rest))[0]

        return call

    def byzantine(n, f):
        return f

    def kept(n, f):
        return n - f

    return {
        "aggregate": on_results(rules.aggregate, weighted=True),
        "aggregate_median": on_results(rules.aggregate_median),
        "aggregate_trimmed_avg": on_results(rules.aggregate_trimmed_avg, lambda n, f: 0.2),
        "aggregate_krum": on_results(rules.aggregate_krum, byzantine, lambda n, f: 0),
        "aggregate_krum, kept": on_results(rules.aggregate_krum, byzantine, kept),
        "aggregate_krum, kept, weighted": on_results(
            rules.aggregate_krum, byzantine, kept, weighted=True
        ),
        "aggregate_bulyan": on_results(
            lambda results, f: rules.aggregate_bulyan(results, f, rules.aggregate_krum, to_keep=0),
            byzantine,
        ),
    }


def torchjd_calls() -> dict[str, Call]:
    """TorchJD's aggregators of a matrix."""
    import torch
    from torchjd import aggregation as rules

    def on_tensors(make):
        return lambda x, f: make(len(x), f)(torch.from_numpy(x))

    return {
        "Mean": on_tensors(lambda n, f: rules.Mean()),
        "TrimmedMean": on_tensors(lambda n, f: rules.TrimmedMean(f)),
        "Krum": on_tensors(lambda n, f: rules.Krum(f)),
        "Krum, selected": on_tensors(lambda n, f: rules.Krum(f, n - f)),
    }


# by the peer's name, with the distributions that must be there
PEERS: dict[str, tuple[Callable[[], dict[str, Call]], tuple[str, ...]]] = {
    "ByzFL": (byzfl_calls, ("byzfl",)),
    "ByzFL on tensors": (byzfl_torch_calls, ("byzfl", "torch")),
    "Flower": (flower_calls, ("flwr",)),
    "TorchJD": (torchjd_calls, ("torchjd", "torch")),
}


def _twice(rule, x):
    rule(x)
    return rule(x)


def _argument_after(change, x):
    change(x)
    return x


def _import_byzfl() -> None:
    """Makes ByzFL's rules and attacks importable without its simulator and, on arrays, torch.

    Its ``__init__`` imports the simulator and, by that, torchvision and two plotting libraries. On
    arrays its rules only ask whether these are tensors.
    """
    if "byzfl" not in sys.modules:
        found = importlib.util.find_spec("byzfl")
        assert found is not None and found.submodule_search_locations is not None
        package = types.ModuleType("byzfl")
        package.__path__ = list(found.submodule_search_locations)
        sys.modules["byzfl"] = package
    if importlib.util.find_spec("torch") is None:
        torch, linalg = types.ModuleType("torch"), types.ModuleType("torch.linalg")
        torch.Tensor, torch.linalg = type("Tensor", (), {}), linalg  # type: ignore[attr-defined]
        sys.modules |= {"torch": torch, "torch.linalg": linalg}
