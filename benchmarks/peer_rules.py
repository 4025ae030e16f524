"""Other libraries' aggregation rules, and the definitions written in NumPy."""

import functools
import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import inputs
from benchmarks.worker import Contestant, Makers, NotHere

# ByzFL's GeometricMedian has no stopping rule; this many steps agree with the others here.
_BYZFL_STEPS = 10
_MOST_BYTES = 4 * 2**30


def makers_of(settings: dict) -> Makers:
    """All that know a rule."""
    rule, n, d = settings["rule"], settings["n"], settings["d"]
    f = inputs.malicious(rule, n)

    @functools.cache
    def updates() -> np.ndarray:
        return inputs.updates(n, d)

    def numpy() -> Contestant:
        x, aggregate = updates(), NUMPY[rule]
        return Contestant(lambda: aggregate(x, f), result=np.asarray)

    makers: Makers = {"NumPy": numpy}
    if settings["peers"]:
        for peer, rules in PEERS.items():
            if rule in rules:
                makers[peer] = functools.partial(rules[rule], updates, f)
    return makers


def _median(x, f):
    n = len(x)
    ordered = np.sort(x, axis=0)
    return 0.5 * (ordered[(n - 1) // 2] + ordered[n // 2])


def _trimmed_mean(x, f):
    return np.sort(x, axis=0)[f : len(x) - f].mean(axis=0)


def _krum(x, f):
    return x[_krum_scores(x, f).argmin()]


def _multi_krum(x, f):
    kept = len(x) - f
    best = np.argsort(_krum_scores(x, f), kind="stable")[:kept]
    weights = np.zeros(len(x), np.float32)
    weights[best] = 1 / kept
    return weights @ x


def _geometric_median(x, f, tolerance=1e-6, most=200):
    """Weiszfeld's iteration from the mean; a step is three products with x."""
    squares = np.einsum("nd,nd->n", x, x)
    weights = np.full(len(x), 1 / len(x), np.float32)
    for _ in range(most):
        z = weights @ x
        distances = np.sqrt(np.maximum(squares - 2 * (x @ z) + z @ z, 1e-12))
        new = 1 / distances
        new /= new.sum()
        converged = np.abs(new - weights).sum() <= tolerance
        weights = new
        if converged:
            break
    return weights @ x


def _nnm_trimmed_mean(x, f):
    n = len(x)
    nearest = np.argpartition(_squared_distances(x), n - f - 1, axis=1)[:, : n - f]
    mixing = np.zeros((n, n), np.float32)
    np.put_along_axis(mixing, nearest, 1 / (n - f), axis=1)
    return _trimmed_mean(mixing @ x, f)


def _bulyan(x, f):
    """Rows chosen by Krum one by one, then the values nearest to their median."""
    distances, left, chosen = _squared_distances(x), np.arange(len(x)), []
    for _ in range(len(x) - 2 * f):
        neighbours = max(len(left) - f - 2, 1)
        ordered = np.sort(distances[np.ix_(left, left)], axis=1)
        best = ordered[:, 1 : neighbours + 1].sum(axis=1).argmin()
        chosen.append(left[best])
        left = np.delete(left, best)
    rows = x[chosen]
    apart, kept = np.abs(rows - np.median(rows, axis=0)), len(x) - 4 * f
    nearest = np.argpartition(apart, kept - 1, axis=0)[:kept]
    return np.take_along_axis(rows, nearest, axis=0).mean(axis=0)


def _mda(x, f):
    distances = _squared_distances(x)
    subsets = itertools.combinations(range(len(x)), len(x) - f)
    return x[list(min(subsets, key=lambda s: distances[np.ix_(s, s)].max()))].mean(axis=0)


def _squared_distances(x):
    product = x @ x.T
    squares = np.diagonal(product)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * product, 0)
    np.fill_diagonal(distances, 0)
    return distances


def _krum_scores(x, f):
    return np.sort(_squared_distances(x), axis=1)[:, 1 : len(x) - f - 1].sum(axis=1)


NUMPY: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "median": _median,
    "trimmed_mean": _trimmed_mean,
    "krum": _krum,
    "multi_krum": _multi_krum,
    "geometric_median": _geometric_median,
    "nnm+trimmed_mean": _nnm_trimmed_mean,
    "bulyan": _bulyan,
    "mda": _mda,
}


def _numpy_median(updates, f) -> Contestant:
    x = updates()
    return Contestant(lambda: np.median(x, axis=0), result=np.asarray)


def _tensor(x: np.ndarray):
    import torch

    torch.set_num_threads(os.cpu_count() or 1)  # rounds may have left it at one
    return torch.from_numpy(x)


def _byzfl(tensors: bool, make, updates, f) -> Contestant:
    import byzfl

    x: Any = _tensor(updates()) if tensors else updates()
    rule = make(byzfl, f)
    return Contestant(lambda: rule(x), result=np.asarray)


def _byzfl_geometric_median(tensors: bool, updates, f) -> Contestant:
    made = _byzfl(tensors, lambda lib, f: lib.GeometricMedian(nu=1e-6, T=_BYZFL_STEPS), updates, f)
    made.note = f"{_BYZFL_STEPS} steps: it has no stopping rule"
    return made


def _byzfl_nnm(tensors: bool, updates, f) -> Contestant:
    n, d = updates().shape
    gathered = 4 * n * (n - f) * d
    if gathered > _MOST_BYTES:
        raise NotHere(f"not run: it gathers {gathered / 2**30:.0f} GiB")

    def make(lib, f):
        mix, rule = lib.NNM(f=f), lib.TrMean(f=f)
        return lambda x: rule(mix(x))

    return _byzfl(tensors, make, updates, f)


def _flower(name: str, arguments, updates, f) -> Contestant:
    from flwr.server.strategy import aggregate

    x, rule = updates(), getattr(aggregate, name)
    results: list = [([row], 1) for row in x]
    rest = arguments(len(x), f)
    return Contestant(lambda: rule(results, *rest), result=lambda layers: layers[0])


def _flower_bulyan(updates, f) -> Contestant:
    from flwr.server.strategy import aggregate

    results: list = [([row], 1) for row in updates()]
    krum = aggregate.aggregate_krum
    return Contestant(
        lambda: aggregate.aggregate_bulyan(results, f, krum, to_keep=0),
        result=lambda layers: layers[0],
    )


def _torchjd(make, updates, f) -> Contestant:
    from torchjd import aggregation

    x = _tensor(updates())
    rule = make(aggregation, len(x), f)
    return Contestant(lambda: rule(x), result=np.asarray)


def _byzpy_geometric_median(updates, f) -> Contestant:
    from byzpy.aggregators.geometric_wise.geometric_median import GeometricMedian

    rows, rule = list(_tensor(updates())), GeometricMedian(init="mean")
    return Contestant(lambda: rule.aggregate(rows), result=np.asarray)


# On NumPy arrays ByzFL's median and trimmed mean are np.median and np.sort: not timed twice.
PEERS: dict[str, dict[str, Callable[..., Contestant]]] = {
    "np.median": {"median": _numpy_median},
    "ByzFL (torch)": {
        "median": functools.partial(_byzfl, True, lambda lib, f: lib.Median()),
        "trimmed_mean": functools.partial(_byzfl, True, lambda lib, f: lib.TrMean(f=f)),
        "krum": functools.partial(_byzfl, True, lambda lib, f: lib.Krum(f=f)),
        "multi_krum": functools.partial(_byzfl, True, lambda lib, f: lib.MultiKrum(f=f)),
        "geometric_median": functools.partial(_byzfl_geometric_median, True),
        "nnm+trimmed_mean": functools.partial(_byzfl_nnm, True),
        "mda": functools.partial(_byzfl, True, lambda lib, f: lib.MDA(f=f)),
    },
    "ByzFL (NumPy)": {
        "krum": functools.partial(_byzfl, False, lambda lib, f: lib.Krum(f=f)),
        "multi_krum": functools.partial(_byzfl, False, lambda lib, f: lib.MultiKrum(f=f)),
        "geometric_median": functools.partial(_byzfl_geometric_median, False),
        "nnm+trimmed_mean": functools.partial(_byzfl_nnm, False),
        "mda": functools.partial(_byzfl, False, lambda lib, f: lib.MDA(f=f)),
    },
    "Flower": {
        "median": functools.partial(_flower, "aggregate_median", lambda n, f: ()),
        "trimmed_mean": functools.partial(
            _flower, "aggregate_trimmed_avg", lambda n, f: (inputs.SHARE,)
        ),
        "krum": functools.partial(_flower, "aggregate_krum", lambda n, f: (f, 0)),
        "multi_krum": functools.partial(_flower, "aggregate_krum", lambda n, f: (f, n - f)),
        "bulyan": _flower_bulyan,
    },
    "TorchJD": {
        "trimmed_mean": functools.partial(_torchjd, lambda lib, n, f: lib.TrimmedMean(f)),
        "krum": functools.partial(_torchjd, lambda lib, n, f: lib.Krum(f)),
        "multi_krum": functools.partial(_torchjd, lambda lib, n, f: lib.Krum(f, n - f)),
    },
    "ByzPy": {"geometric_median": _byzpy_geometric_median},
}
