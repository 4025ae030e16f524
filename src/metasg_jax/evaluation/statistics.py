"""Means and standard errors over seeds, paired differences, and slopes with their intervals."""

import numpy as np
from scipy import stats


def mean_se(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error (ddof 1) over the first axis; the error of one seed is NaN."""
    values = np.asarray(values, np.float64)
    n = values.shape[0]
    if n < 2:
        return values.mean(axis=0), np.full(values.shape[1:], np.nan)
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(n)


def paired_difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Mean and standard error of ``a - b`` over seeds that both were played on."""
    mean, se = mean_se(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    return float(mean), float(se)


def log_log_slope(x: np.ndarray, y: np.ndarray) -> float:
    """The p of ``y = c x^p`` by least squares in logarithms; NaN with fewer than two points.

    Args:
        x: positive, [n].
        y: [n]; pairs where it isn't positive and finite are left out.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    kept = np.isfinite(y) & (y > 0)
    if kept.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(x[kept]), np.log(y[kept]), 1)[0])


def t_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Mean of independent values [n] and half the width of its interval by Student's t.

    Values that aren't finite are left out; the half width of fewer than two is NaN.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return float("nan"), float("nan")
    mean, se = mean_se(values)
    if values.size < 2:
        return float(mean), float("nan")
    return float(mean), float(stats.t.ppf(0.5 + level / 2, values.size - 1) * se)
