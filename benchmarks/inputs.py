"""Random inputs, the same in every environment: what they hold does not change the time."""

import numpy as np

NUM_CLASSES = 10
SHARE = 0.2
"""Assumed share of malicious clients: f = n / 5, and the share trimmed at each side."""


def images(count: int, shape=(28, 28, 1)) -> tuple[np.ndarray, np.ndarray]:
    """Images u8[count, *shape] and labels i32[count]."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return x, rng.integers(0, NUM_CLASSES, count).astype(np.int32)


def malicious(rule: str, n: int) -> int:
    """How many of n clients are assumed so; Bulyan bears fewer where clients are few."""
    f = round(SHARE * n)
    return min(f, (n - 3) // 4) if rule == "bulyan" else f


def updates(n: int, d: int) -> np.ndarray:
    """Standard normal f32[n, d]."""
    return np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
