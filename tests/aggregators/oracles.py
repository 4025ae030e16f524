"""More rules in float64 NumPy, as in ``tests/oracles.py``: from the papers and not from our code.

``oracle(rows[n, d], weights[n], root[d], **fields)``, of present rows only.
"""

import numpy as np

from tests import oracles


def mean_around_median(rows, kept):
    """Xie et al. 2018, definition 9: the mean of the values nearest to the median.

    One value at a time; values at the same distance as the last one share its place.
    """
    out = np.zeros(rows.shape[1])
    for j, column in enumerate(rows.T):
        away = np.abs(column - np.median(column))
        last = np.sort(away)[kept - 1]
        nearer, tied = column[away < last], column[away == last]
        out[j] = (nearer.sum() + (kept - len(nearer)) * tied.mean()) / kept
    return out


def meamed(rows, weights, root, f):
    """Xie et al. 2018: the n - f nearest to the median."""
    return mean_around_median(rows, max(int(len(rows) - f), 1))


RULES = oracles.RULES | {
    "meamed": meamed,
}
