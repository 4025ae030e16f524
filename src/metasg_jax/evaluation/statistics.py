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


def t_test(values: np.ndarray) -> float:
    """Two-sided p that the mean is 0, by Student's t; NaN for fewer than two values.

    Values that all agree have p 1 at 0, else 0.

    Args:
        values: [n], independent; or [T, S], training seeds on the same worlds, see
            :func:`crossed_interval`.
    """
    mean, se, freedom = _mean_error_freedom(np.asarray(values, np.float64))
    if np.isnan(se):
        return float("nan")
    if se == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean / se), freedom))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values (Scandinavian Journal of Statistics, 1979).

    The i-th smallest of n, from 0, becomes ``max_{j <= i} min(1, (n - j) p_(j))``: rejecting what
    is below alpha keeps the chance of any false rejection below alpha.

    Example:
        >>> holm(np.array([0.04, 0.01, 0.03])).tolist()
        [0.06, 0.03, 0.06]
    """
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1.0)
    result = np.empty_like(adjusted)
    result[order] = adjusted
    return result


def equivalence_test(values: np.ndarray, margin: float) -> float:
    """The p of the claim that the mean lies within ``margin`` of 0.

    Two one-sided t-tests (Schuirmann 1987): small where the mean is shown to be neither below
    -margin nor above it.

    Args:
        values: [n], independent; or [T, S], training seeds on the same worlds, see
            :func:`crossed_interval`.
        margin: positive.
    """
    mean, se, freedom = _mean_error_freedom(np.asarray(values, np.float64))
    if not se > 0:
        return float("nan") if np.isnan(se) else float(abs(mean) >= margin)
    return float(stats.t.sf((margin - abs(mean)) / se, freedom))


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
    return mean, float(stats.t.ppf(0.5 + level / 2, freedom) * se)


def gap_recovery(learned: np.ndarray, fixed: np.ndarray, oracle: np.ndarray) -> np.ndarray:
    """``(learned - fixed) / (oracle - fixed)`` of each training seed, f64[T].

    Args:
        learned: f64[T, S], scores over the prior of T training seeds on S worlds.
        fixed: f64[S], of the best fixed action on the same worlds.
        oracle: f64[S], of the best fixed action for each type.

    The references have no training seed, so the interval of the mean is that over seeds. It is NaN
    where the oracle does not beat the fixed action.
    """
    gap = np.mean(oracle) - np.mean(fixed)
    if not gap > 0:
        return np.full(len(learned), np.nan)
    return (np.asarray(learned).mean(axis=1) - np.mean(fixed)) / gap
