"""Means and variances of estimates of a gradient, and how far they are from the exact one."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

CHUNK = 1 << 14


class Moments(NamedTuple):
    """Moments of independent estimates of a vector f64[P].

    Attributes:
        mean: f64[P].
        variance: f64[P], of one estimate.
        count: how many there were.
    """

    mean: np.ndarray
    variance: np.ndarray
    count: int

    @property
    def trace(self) -> float:
        """The trace of the covariance of one estimate."""
        return float(self.variance.sum())

    @property
    def error(self) -> float:
        """Root mean squared distance of the mean from its expectation."""
        return float(np.sqrt(self.trace / self.count))


def sampler(estimate: Callable, chunk: int = CHUNK) -> Callable:
    """Draws moments of vectors over independent keys; compiles once.

    Args:
        estimate: (key, argument) -> {name: f32[P]}.
        chunk: draws in a call, all side by side.

    Returns:
        ``(key, most, precision=0, argument=0) -> {name: Moments}``, which stops after ``most``
        draws or where each mean's error is below ``precision`` times its norm, differences apart.
    """

    @jax.jit
    def many(key, argument):
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(chunk))
        values = jax.vmap(lambda k: estimate(k, argument))(keys)

        def reduce(v):
            mean = v.mean(axis=0)
            return mean, ((v - mean[None]) ** 2).mean(axis=0)

        return jax.tree.map(reduce, values)

    def draw(key, most: int, precision: float = 0.0, argument=0) -> dict[str, Moments]:
        count, total, square, out = 0, {}, {}, {}
        while count < most:
            parts = many(jax.random.fold_in(key, count), argument)
            for name, (mean, variance) in parts.items():
                mean, variance = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
                total[name] = total.get(name, 0.0) + mean * chunk
                square[name] = square.get(name, 0.0) + (variance + mean**2) * chunk
            count += chunk
            for name in total:
                spread = np.maximum(square[name] - total[name] ** 2 / count, 0.0)
                out[name] = Moments(total[name] / count, spread / max(count - 1, 1), count)
            needed = [m for name, m in out.items() if " minus " not in name]
            if all(m.error < precision * np.linalg.norm(m.mean) for m in needed):
                break
        return out

    return draw


def flat(tree) -> jax.Array:
    """All leaves as one vector."""
    return ravel_pytree(tree)[0]


def compare(moments: Moments, truth: np.ndarray) -> dict[str, float]:
    """Estimates of a vector against it: bias, its size in standard errors, cosine."""
    norm = np.linalg.norm(truth)
    unit = truth / norm
    off = np.linalg.norm(moments.mean - truth)
    return {
        "along": float(moments.mean @ unit),
        "error": moments.error,
        "exact": float(norm),
        "sigmas": float(off / moments.error),
        "bias": float(off / norm),
        "cosine": float(moments.mean @ unit / np.linalg.norm(moments.mean)),
        "trace": moments.trace,
        "count": moments.count,
    }
