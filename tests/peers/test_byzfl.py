"""ByzFL 0.0.11: where its rules, pre-aggregators and attacks are ours, and where they are not.

All tests hold on arrays and on tensors. Where the conventions differ, the peer's is stated in NumPy
and compared with the peer; ours is then shown to be another, or to be the same by other settings.
"""

import itertools

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from metasg_jax.aggregators import (
    MDA,
    CenteredClip,
    GeometricMedian,
    Krum,
    MeaMed,
    Mean,
    Median,
    MultiKrum,
    TrimmedMean,
)
from metasg_jax.pre_aggregators import NNM, Bucketing, Clipping
from tests.peers.comparison import (
    answered,
    assert_agree,
    assert_equal,
    differ,
    rows_after,
    sent_row,
    update_of,
)

both = pytest.mark.parametrize("peer", ["ByzFL", "ByzFL on tensors"])


def trimmed_mean(rows, f):
    return update_of(TrimmedMean(beta=f / len(rows)), rows)


AGREE = {
    "Average": lambda rows, f: update_of(Mean(), rows),
    "Median": lambda rows, f: update_of(Median(), rows),
    # f smallest and f largest
    "TrMean": trimmed_mean,
    # only where nothing is tied
    "Meamed": lambda rows, f: update_of(MeaMed(f=f), rows),
    # with T = 2000 and nu = 1e-9 it has converged, too
    "GeometricMedian, converged": lambda rows, f: update_of(GeometricMedian(), rows),
    # starts at 0; its tau is our max_norm, its L our iterations
    "CenteredClipping": lambda rows, f: update_of(CenteredClip(max_norm=1.5, iterations=3), rows),
    # its default L is 1; it remembers the centre from call to call, as our state does
    "CenteredClipping, second round": lambda rows, f: update_of(
        CenteredClip(max_norm=1.5, iterations=2), rows
    ),
    "NNM": lambda rows, f: rows_after(NNM(f=f), rows),
    "NNM, TrMean": lambda rows, f: trimmed_mean(rows_after(NNM(f=f), rows), f),
    # its c is our max_norm
    "Clipping": lambda rows, f: rows_after(Clipping(max_norm=1.5), rows),
    # its tau is our scale
    "InnerProductManipulation": lambda rows, f: sent_row("ipm", rows, scale=2.5),
}


@both
@pytest.mark.parametrize("call", AGREE)
def test_the_same(peer, call):
    assert_agree(peer, call, AGREE[call])


def krum_scores(rows, neighbours):
    distances = np.sort(cdist(rows, rows) ** 2, axis=1)
    return distances[:, 1 : 1 + neighbours].sum(axis=1)


def krum_of_n_f_1(rows, f):
    return rows[np.argmin(krum_scores(rows, len(rows) - f - 1))]


@both
def test_krum_counts_one_neighbour_more(peer):
    """n - f - 1 others, where the paper and ours count n - f - 2: ours with f - 1 is the same."""
    assert_agree(peer, "Krum", krum_of_n_f_1)
    assert_agree(peer, "Krum", lambda rows, f: update_of(Krum(f=f - 1), rows))
    assert differ(lambda rows, f: update_of(Krum(f=f), rows), krum_of_n_f_1)


@both
def test_multi_krum_counts_one_neighbour_more(peer):
    """It keeps n - f, as ours does."""

    def statement(rows, f):
        best = np.argsort(krum_scores(rows, len(rows) - f - 1))[: len(rows) - f]
        return rows[best].mean(axis=0)

    def ours(rows, f):
        return update_of(MultiKrum(f=f - 1, m=len(rows) - f), rows)

    assert_agree(peer, "MultiKrum", statement)
    assert_agree(peer, "MultiKrum", ours)
    assert differ(lambda rows, f: update_of(MultiKrum(f=f), rows), statement)


@both
def test_mda_takes_the_first_of_equal_diameters(peer):
    """Two rows make a diameter, so several subsets share the smallest one. Ours takes the subset
    of the smallest sum of squared distances, which the order of the rows can't change.
    """

    def statement(rows, f):
        distances = cdist(rows, rows)
        subsets = [list(s) for s in itertools.combinations(range(len(rows)), len(rows) - f)]
        first = min(subsets, key=lambda s: distances[np.ix_(s, s)].max())
        return rows[first].mean(axis=0)

    def ours(rows, f):
        return update_of(MDA(f=float(f)), rows)

    assert_agree(peer, "MDA", statement)
    assert differ(ours, statement)
    for case, rows, f, theirs in answered(peer, "MDA"):
        if case.startswith("far"):  # the f far rows are out of the only subset that is smallest
            assert_equal(ours(rows, f), theirs, case)


@both
def test_the_geometric_median_stops_after_three_steps_from_zero(peer):
    """T = 3, nu = 0.1 by default: not the geometric median yet."""

    def statement(rows, f):
        z = np.zeros(rows.shape[1])
        for _ in range(3):
            shares = 1 / np.maximum(np.linalg.norm(rows - z, axis=1), 0.1)
            z = shares @ rows / shares.sum()
        return z

    assert_agree(peer, "GeometricMedian", statement)
    assert differ(lambda rows, f: update_of(GeometricMedian(), rows), statement)


@both
def test_clipping_overwrites_its_input(peer):
    """Ours is pure."""
    assert_agree(peer, "Clipping, its input afterwards", AGREE["Clipping"])


@both
def test_buckets_have_the_same_sizes(peer):
    """ceil(n / s) buckets, the last one smaller; the order is drawn, and so not comparable."""
    for case, rows, _, theirs in answered(peer, "Bucketing"):
        ours, n = rows_after(Bucketing(s=2), rows), len(rows)
        assert ours.shape == theirs.shape == (-(-n // 2), rows.shape[1]), case
        sizes = np.minimum(2, n - 2 * np.arange(len(theirs)))
        for buckets in (ours, theirs):
            assert_equal(sizes @ buckets, rows.sum(axis=0), case)


@both
def test_sign_flipping_is_ipm(peer):
    """It flips the mean of the honest updates; our sign_flip turns each client's own update."""
    assert_agree(peer, "SignFlipping", lambda rows, f: sent_row("ipm", rows, scale=1.0))
    assert differ(lambda rows, f: sent_row("sign_flip", rows), lambda rows, f: -rows.mean(axis=0))


@both
def test_alie_goes_the_other_way_with_another_deviation(peer):
    """mean + tau std, and n - 1 in the variance; ours is mean - z std, with n."""

    def statement(rows, f):
        return rows.mean(axis=0) + 1.5 * rows.std(axis=0, ddof=1)

    def ours(rows, f):
        n = len(rows)
        return sent_row("alie", rows, z=-1.5 * np.sqrt(n / (n - 1)))

    assert_agree(peer, "ALittleIsEnough", statement)
    assert_agree(peer, "ALittleIsEnough", ours)
    assert differ(lambda rows, f: sent_row("alie", rows, z=1.5), statement)


@both
def test_mimic_copies_a_client_that_is_given(peer):
    """Its epsilon is the client's place; ours finds the client, in the direction of most variance.

    Both send an honest row as it is.
    """
    assert_agree(peer, "Mimic", lambda rows, f: rows[3])
    found = set()
    for _, rows, _, _ in answered(peer, "Mimic"):
        row = sent_row("mimic", rows)
        place = np.argmin(np.abs(rows - row).max(axis=1))
        assert_equal(row, rows[place])
        found.add(place)
    assert len(found) > 1
