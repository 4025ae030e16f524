"""The root images themselves, again and again: the least that a server can do."""

import numpy as np

from metasg_jax.data.dataset import pool_images


def repeated(
    rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, count: int, factor: int
) -> tuple[np.ndarray, np.ndarray]:
    """See :mod:`metasg_jax.data.simulated`."""
    chosen = balanced(rng, labels, count)
    return pool_images(images[chosen], factor), labels[chosen]


def balanced(rng: np.random.Generator, labels: np.ndarray, count: int) -> np.ndarray:
    """Positions i64[S] in random order, every label as often as the others."""
    kinds = np.unique(labels)
    wanted = rng.permutation(np.resize(kinds, count))
    chosen = np.empty(count, np.int64)
    for kind in kinds:
        mine = wanted == kind
        chosen[mine] = rng.choice(np.flatnonzero(labels == kind), size=int(mine.sum()))
    return chosen
