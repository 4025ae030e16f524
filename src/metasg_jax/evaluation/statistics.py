"""Means and standard errors over seeds, paired differences, and slopes with their intervals."""

import numpy as np
from scipy.special import stdtrit


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
    return float(mean), float(stdtrit(values.size - 1, 0.5 + level / 2) * se)


def _mean_error_freedom(values: np.ndarray) -> tuple[float, float, int]:
    """Mean, standard error and degrees of freedom of [n], or of the crossed design [T, S]."""
    if values.ndim == 2 and 1 in values.shape:
        values = values.reshape(-1)
    if values.ndim == 1:
        mean, se = mean_se(values)
        return float(mean), float(se), len(values) - 1
    t = len(values)
    s = values.size // t
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    residual = values - rows[:, None] - columns[None] + values.mean()
    both = (residual**2).sum() / ((t - 1) * (s - 1)) / (t * s)
    variance = rows.var(ddof=1) / t + columns.var(ddof=1) / s - both
    # an estimate, and may fall below what either alone says
    variance = max(variance, rows.var(ddof=1) / t, columns.var(ddof=1) / s)
    return float(values.mean()), float(np.sqrt(variance)), min(t, s) - 1


def crossed_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Mean of values [T, S] of T training seeds on the same S worlds, and half its interval.

    Both seeds and worlds are draws: the variance of the mean is that over seeds plus that over
    worlds minus what both count, the residual's, as in a crossed design of two random effects
    (Cameron, Gelbach and Miller, 2011, two-way clustering). Degrees of freedom are those of the
    smaller number. Wider than ``t_interval(values.mean(axis=1))``, which holds for these worlds.
    """
    values = np.asarray(values, np.float64)
    if min(values.shape) < 2:
        return float(values.mean()), float("nan")
    mean, se, freedom = _mean_error_freedom(values)
    return mean, float(stdtrit(freedom, 0.5 + level / 2) * se)
