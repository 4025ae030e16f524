"""Crafts in float64 NumPy, written from their papers: ``oracle(honest[h, d], ..) -> row[d]``."""

import numpy as np

from tests.oracles import krum


def perturbation(honest, kind):
    """Shejwalkar and Houmansadr 2021, section IV: what the mean is moved along."""
    mean = honest.mean(axis=0)
    if kind == "unit":
        return mean / np.linalg.norm(mean)
    return np.sign(mean) if kind == "sign" else honest.std(axis=0)


def bisected(honest, kind, legal):
    """Their algorithm 1: the step halves, gamma goes up where the row is legal, down where not."""
    mean, direction = honest.mean(axis=0), perturbation(honest, kind)
    gamma = step = 50.0
    good = 0.0
    for _ in range(80):
        step /= 2
        if legal(mean - gamma * direction):
            good, gamma = gamma, gamma + step
        else:
            gamma -= step
    return mean - good * direction


def min_max(honest, kind):
    """No farther from any honest update than the two farthest of them are from each other."""
    most = max(np.linalg.norm(a - b) for a in honest for b in honest)
    return bisected(honest, kind, lambda row: max(np.linalg.norm(row - u) for u in honest) <= most)


def min_sum(honest, kind):
    """Squared distances to the honest updates sum to no more than any honest update's."""
    most = max(sum(np.sum((a - b) ** 2) for b in honest) for a in honest)
    return bisected(honest, kind, lambda row: sum(np.sum((row - u) ** 2) for u in honest) <= most)


def lmp_krum(honest, copies, threshold=1e-5):
    """Fang et al. 2020, section IV.B: halve lambda until Krum takes the crafted row."""
    h, d = honest.shape
    direction = np.sign(honest.mean(axis=0))
    squares = np.sum((honest[:, None] - honest[None]) ** 2, axis=2)
    nearest = min(
        np.sort(np.delete(row, i))[: max(h - 2, 1)].sum() for i, row in enumerate(squares)
    )
    n = h + copies
    size = np.sqrt(nearest / (max(n - 2 * copies - 1, 1) * d))
    size += np.linalg.norm(honest, axis=1).max() / np.sqrt(d)
    while size > threshold:
        crafted = np.tile(-size * direction, (copies, 1))
        # honest rows first: they win a tie
        if np.array_equal(krum(np.concatenate([honest, crafted]), None, None, copies), crafted[0]):
            break
        size /= 2
    return -size * direction


def mimic(rounds, first):
    """Karimireddy et al. 2022, appendix: Oja's rule for the direction of largest variance.

    Args:
        rounds: honest updates of each round.
        first: the direction to begin with.
    """
    mean, z = np.zeros_like(first), first
    for t, honest in enumerate(rounds):
        mean = (t * mean + honest.mean(axis=0)) / (t + 1)
        centred = honest - mean
        turned = centred.T @ (centred @ z)
        z = (t * z + turned / np.linalg.norm(turned)) / (t + 1)
        z /= np.linalg.norm(z)
    return honest[np.argmax(centred @ z)], z
