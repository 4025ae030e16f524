"""Symmetries of the pre-aggregators, on drawn rows."""

import jax
import numpy as np
import pytest
from hypothesis import given

from metasg_jax.pre_aggregators import NNM, PRE_AGGREGATORS, Bucketing, Clipping
from tests.aggregators.properties import (
    F,
    N,
    assert_close,
    diameter,
    drawn_rows,
    factors,
    few,
    orders,
    shifts,
)
from tests.rounds import round_of

PRES = {"nnm": NNM(f=float(F)), "clipping": Clipping(max_norm=3.0), "bucketing": Bucketing(s=2)}
# a row's bucket is drawn by its place
IN_PLACE = ["nnm", "clipping"]
# they know no length; clipping is given one
AFFINE = ["nnm", "bucketing"]


@jax.jit
def _run(pre, received):
    return pre(jax.random.key(0), pre.init(*received.updates.shape), received)[0]


def rows_after(pre, rows) -> np.ndarray:
    return np.asarray(_run(pre, round_of(rows)).updates)


def test_every_pre_aggregator_is_here():
    assert set(PRES) == set(PRE_AGGREGATORS)


@pytest.mark.parametrize("name", IN_PLACE)
@few
@given(drawn_rows, orders)
def test_rows_keep_their_places(name, rows, order):
    assert_close(rows_after(PRES[name], rows[order]), rows_after(PRES[name], rows)[order])


@pytest.mark.parametrize("name", AFFINE)
@few
@given(drawn_rows, shifts, factors)
def test_rows_that_move_and_grow_together_come_out_so(name, rows, shift, factor):
    expected = factor * rows_after(PRES[name], rows) + shift
    assert_close(rows_after(PRES[name], factor * rows + shift), expected)


@few
@given(drawn_rows, factors)
def test_clipping_knows_a_length(rows, factor):
    """Longer rows come out as they are scaled only where the bound is scaled, too."""
    longer = rows_after(PRES["clipping"].replace(max_norm=3.0 * factor), factor * rows)
    assert_close(longer, factor * rows_after(PRES["clipping"], rows))
    norms = np.linalg.norm(rows, axis=1)
    clipped = np.linalg.norm(rows_after(PRES["clipping"], rows), axis=1)
    np.testing.assert_allclose(clipped, np.minimum(norms, 3.0), rtol=1e-5)


@pytest.mark.parametrize("name", PRES)
@few
@given(drawn_rows)
def test_opposite_rows_come_out_opposite(name, rows):
    assert_close(rows_after(PRES[name], -rows), -rows_after(PRES[name], rows))


@pytest.mark.parametrize("name", AFFINE)
@few
@given(drawn_rows)
def test_mixed_rows_are_within_the_range_of_the_rows(name, rows):
    mixed = rows_after(PRES[name], rows)
    slack = 1e-5 * diameter(rows)
    assert (mixed >= rows.min(axis=0) - slack).all()
    assert (mixed <= rows.max(axis=0) + slack).all()


@few
@given(drawn_rows)
def test_nnm_brings_honest_rows_no_farther_than_a_diameter_from_where_they_were(rows):
    """Whatever the f others are: here they are far away."""
    attacked = rows.copy()
    attacked[:F] += 1e4
    moved = np.linalg.norm(rows_after(PRES["nnm"], attacked) - attacked, axis=1)[F:]
    assert (moved <= diameter(rows[F:]) * (1 + 1e-3)).all()
    assert len(moved) == N - F
