"""What ours and the peers are compared on. NumPy only: the peers' environment has no JAX."""

import numpy as np

D = 4
KINDS = ("odd", "even", "far", "many")
REPEATS = 2
SIZES = {"odd": 11, "even": 10, "far": 11, "many": 15}


def byzantine(n: int) -> int:
    """The most that every rule here allows for n rows: Bulyan's n >= 4 f + 3 is the strictest."""
    return (n - 3) // 4


def rows_of(kind: str, seed: int) -> np.ndarray:
    """f64[n, D] of float32 values, nothing tied; ``far`` has f rows that are far away."""
    n = SIZES[kind]
    rng = np.random.default_rng([KINDS.index(kind), seed])
    rows = rng.normal(size=D) + rng.normal(size=(n, D))
    if kind == "far":
        rows[: byzantine(n)] *= 1e3
    return rows.astype(np.float32).astype(np.float64)


def examples_of(rows: np.ndarray) -> list[int]:
    """How many examples each client has, where a peer asks for it."""
    return [1 + i % 3 for i in range(len(rows))]


def cases(seed: int) -> dict[str, np.ndarray]:
    """All inputs by name, ``kind-seed``."""
    seeds = range(seed, seed + REPEATS)
    return {f"{kind}-{s}": rows_of(kind, s) for kind in KINDS for s in seeds}
