"""TorchJD 0.18's aggregators of rows: where they are ours, and where they are not."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from metasg_jax.aggregators import Krum, Mean, MultiKrum, TrimmedMean
from tests.peers.comparison import assert_agree, differ, update_of

AGREE = {
    "Mean": lambda rows, f: update_of(Mean(), rows),
    # trim_number smallest and as many largest
    "TrimmedMean": lambda rows, f: update_of(TrimmedMean(beta=f / len(rows)), rows),
}


@pytest.mark.parametrize("call", AGREE)
def test_the_same(call):
    assert_agree("TorchJD", call, AGREE[call])


def unsquared_krum(kept):
    """n - f - 2 others, as in the paper, but by their distances and not the squares."""

    def statement(rows, f):
        near = np.sort(cdist(rows, rows), axis=1)[:, 1 : len(rows) - f - 1]
        best = np.argsort(near.sum(axis=1))[: kept(len(rows), f)]
        return rows[best].mean(axis=0)

    return statement


@pytest.mark.parametrize(
    ("call", "kept", "rule"),
    [
        ("Krum", lambda n, f: 1, Krum),
        ("Krum, selected", lambda n, f: n - f, MultiKrum),
    ],
)
def test_krum_does_not_square_the_distances(call, kept, rule):
    assert_agree("TorchJD", call, unsquared_krum(kept))
    assert differ(lambda rows, f: update_of(rule(f=f), rows), unsquared_krum(kept))
