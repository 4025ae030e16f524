"""Means and standard errors over seeds, and paired differences."""

import numpy as np


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
