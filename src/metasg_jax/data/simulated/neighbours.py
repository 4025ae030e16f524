"""Whether made images are copies: how far each is from the nearest root image."""

from typing import NamedTuple

import numpy as np


class Neighbours(NamedTuple):
    """Distances in units of one grey level's range, root mean square over pixels, in [0, 1].

    Attributes:
        nearest: f64[S], of each made image to the nearest root image.
        apart: f64[R], of each root image to the nearest other one.
        copies: share of the made images nearer to a root image than half of the least ``apart``.
    """

    nearest: np.ndarray
    apart: np.ndarray
    copies: float


def neighbours(made: np.ndarray, root: np.ndarray) -> Neighbours:
    """Compares u8[S, h, w, c] with root images u8[R, h, w, c] of the same size; R of at least 2."""
    a, b = (each.reshape(len(each), -1).astype(np.float64) / 255 for each in (made, root))
    nearest = _distances(a, b).min(axis=1)
    among = _distances(b, b)
    np.fill_diagonal(among, np.inf)
    apart = among.min(axis=1)
    return Neighbours(nearest, apart, float((nearest < apart.min() / 2).mean()))


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0.0) / a.shape[1])
