"""Intervals cover as often as they say, and corrections correct."""

import numpy as np
import pytest

from metasg_jax.evaluation.statistics import (
    crossed_interval,
)


@pytest.mark.parametrize(("between_seeds", "between_worlds"), [(1, 0), (0, 1), (1, 1), (0, 0)])
def test_crossed_intervals_cover(between_seeds, between_worlds):
    """A draw of five seeds on six worlds: the interval holds the true mean in 95 % or more."""
    rng, covered, trials = np.random.default_rng(3), 0, 1000
    for _ in range(trials):
        seeds = between_seeds * rng.normal(size=(5, 1))
        worlds = between_worlds * rng.normal(size=(1, 6))
        mean, half = crossed_interval(seeds + worlds + 0.5 * rng.normal(size=(5, 6)))
        covered += abs(mean) <= half
    assert covered / trials > 0.95 - 4 * np.sqrt(0.05 * 0.95 / trials)
