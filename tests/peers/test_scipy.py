"""SciPy's statistics and distances, called here: where they are ours, and where they are not."""

import jax
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.stats import trim_mean

from metasg_jax.aggregators import GeometricMedian, Median, TrimmedMean
from metasg_jax.aggregators.geometry import centred_gram, squared_distances
from tests.peers.comparison import assert_equal, update_of
from tests.peers.inputs import cases
from tests.rounds import round_of

every_case = pytest.mark.parametrize("rows", cases(0).values(), ids=cases(0))


@every_case
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.2, 0.3, 0.45])
def test_trim_mean_cuts_the_same_share_on_each_side(rows, beta):
    assert_equal(update_of(TrimmedMean(beta=beta), rows), trim_mean(rows, beta, axis=0))


def test_trim_mean_loses_a_row_to_rounding():
    """A share of 1 / 49 of 49 rows is one row; in floating point it is 0.99..., and int() makes 0
    of it. Flower's trimmed mean is made alike. Ours rounds up what is 1e-4 short.
    """
    rows, share = cases(0)["many-0"].repeat(4, axis=0)[:49], 1 / 49
    assert int(share * 49) == 0
    assert_equal(trim_mean(rows, share, axis=0), rows.mean(axis=0))
    one = np.sort(rows, axis=0)[1:-1].mean(axis=0)
    assert_equal(update_of(TrimmedMean(beta=share), rows), one)


@every_case
def test_median(rows):
    """An even number of rows gives the mean of the two in the middle."""
    assert_equal(update_of(Median(), rows), np.median(rows, axis=0))


@every_case
def test_squared_distances(rows):
    ours = squared_distances(*jax.jit(centred_gram)(round_of(rows)))
    assert_equal(ours, cdist(rows, rows, "sqeuclidean"))


@every_case
def test_the_geometric_median_is_where_an_optimiser_stops(rows):
    """The sum of distances is flat at its minimum: the sums agree closer than the points."""

    def total(z):
        return np.linalg.norm(rows - z, axis=1).sum()

    found = minimize(total, np.median(rows, axis=0), method="BFGS", options={"gtol": 1e-9})
    ours = np.float64(update_of(GeometricMedian(), rows))
    np.testing.assert_allclose(ours, found.x, atol=1e-4)
    assert total(ours) <= found.fun * (1 + 1e-7)
