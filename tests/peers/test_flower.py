"""Flower 1.41's aggregation functions: where they are ours, and where they are not."""

import numpy as np
import pytest

from metasg_jax.aggregators import Bulyan, Krum, Mean, Median, MultiKrum, TrimmedMean
from tests.oracles import krum_scores
from tests.peers.comparison import answered, assert_agree, assert_equal, differ, update_of
from tests.peers.inputs import examples_of

AGREE = {
    # weighted by the numbers of examples
    "aggregate": lambda rows, f: update_of(Mean(), rows, examples_of(rows)),
    "aggregate_median": lambda rows, f: update_of(Median(), rows),
    "aggregate_trimmed_avg": lambda rows, f: update_of(TrimmedMean(beta=0.2), rows),
    # squared distances to n - f - 2 others, as in the paper; num_malicious is our f
    "aggregate_krum": lambda rows, f: update_of(Krum(f=f), rows),
    # to_keep is our m
    "aggregate_krum, kept": lambda rows, f: update_of(MultiKrum(f=f, m=len(rows) - f), rows),
}


@pytest.mark.parametrize("call", AGREE)
def test_the_same(call):
    assert_agree("Flower", call, AGREE[call])


def test_multi_krum_weighs_the_kept_rows_by_their_examples():
    """The paper and ours take their plain mean."""

    def statement(rows, f):
        best = np.argsort(krum_scores(rows, f))[: len(rows) - f]
        return np.average(rows[best], axis=0, weights=np.array(examples_of(rows))[best])

    def ours(rows, f):
        return update_of(MultiKrum(f=f), rows, examples_of(rows))

    assert_agree("Flower", "aggregate_krum, kept, weighted", statement)
    assert differ(ours, statement)


def bulyan_of_first(rows, f):
    """Bulyan that chooses the first of rows with equal scores, as Krum does."""
    left, chosen = list(range(len(rows))), []
    while len(chosen) < len(rows) - 2 * f:
        chosen.append(left.pop(np.argmin(krum_scores(rows[left], f))))
    rows = rows[chosen]
    nearest = np.argsort(np.abs(rows - np.median(rows, axis=0)), axis=0, kind="stable")
    return np.take_along_axis(rows, nearest[: len(rows) - 2 * f], axis=0).mean(axis=0)


def test_bulyan_breaks_its_last_ties_by_the_order_of_the_rows():
    """With f = 1 and 2 the last choices count one neighbour: the two rows that are nearest to each
    other tie. Ours takes the one with the smaller sum of distances. With f = 3 nothing ties.
    """

    def ours(rows, f):
        return update_of(Bulyan(f=f), rows)

    assert_agree("Flower", "aggregate_bulyan", bulyan_of_first)
    assert differ(ours, bulyan_of_first)
    for case, rows, f, theirs in answered("Flower", "aggregate_bulyan"):
        if f == 3:
            assert_equal(ours(rows, f), theirs, case)
