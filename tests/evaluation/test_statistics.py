"""Intervals cover as often as they say, and corrections correct."""

import numpy as np
import pytest
from scipy import stats

from metasg_jax.evaluation.statistics import (
    crossed_interval,
    equivalence_test,
    gap_recovery,
    holm,
    t_test,
)


def test_t_test_is_scipys():
    values = np.random.default_rng(0).normal(0.3, 1, 9)
    assert t_test(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert t_test(np.zeros(4)) == 1 and t_test(np.ones(4)) == 0


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.02, 0.03, 0.2])), [0.04, 0.06, 0.06, 0.2])
    np.testing.assert_allclose(holm(np.array([0.5, 0.9])), [1.0, 1.0])


def test_holm_keeps_the_chance_of_any_false_rejection():
    rng, false = np.random.default_rng(1), 0
    for _ in range(2000):
        false += (holm(rng.uniform(size=9)) < 0.05).any()
    assert abs(false / 2000 - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 2000)


def test_equivalence_needs_both_sides():
    rng = np.random.default_rng(2)
    near, noisy, far = (rng.normal(m, sd, 20) for m, sd in ((0, 0.1), (0, 5), (2, 0.1)))
    assert equivalence_test(near, 0.5) < 0.001
    assert equivalence_test(noisy, 0.5) > 0.05 and equivalence_test(far, 0.5) > 0.99
    # its level: at the edge of the margin it is claimed in 5 % of draws
    claimed = [equivalence_test(rng.normal(0.5, 1, 12), 0.5) < 0.05 for _ in range(2000)]
    assert np.mean(claimed) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 2000)


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


def test_recovery_by_hand():
    learned = np.array([[0.6, 0.4], [0.9, 0.7]])
    np.testing.assert_allclose(gap_recovery(learned, [0.4, 0.4], [0.8, 0.8]), [0.25, 1.0])
    assert np.isnan(gap_recovery(learned, [0.4, 0.4], [0.4, 0.3])).all()
