"""Symmetries of the rules, and what f rows can do to them, on drawn inputs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.aggregators.properties import (
    RULES,
    SHUFFLING,
    D,
    F,
    N,
    assert_close,
    diameter,
    directions,
    drawn_rows,
    factors,
    few,
    orders,
    shifts,
    update_of,
)

WEIGHTS = np.arange(1.0, N + 1)
TRANSLATED = [
    "mean",
    "median",
    "trimmed_mean",
    "krum",
    "multi_krum",
    "geometric_median",
    "meamed",
    "bulyan",
    "mda",
    "nnm+krum",
    "nnm+median",
    "bucketing+median",
    "client_trust",
]
# those that measure by the rows, not by a length that is given
SCALED = [
    *TRANSLATED,
    "clipped_trimmed_mean",
    "fltrust",
    "trusted_trimmed_mean",
    "foolsgold",
    "flame",
    "nnm+clipped_trimmed_mean",
]

# rows of very different lengths on both sides of 0
SPREAD = np.random.default_rng(1).normal(size=(N, D)) * np.geomspace(0.2, 20.0, N)[:, None]
ROOT = np.arange(1.0, D + 1)
# three rows are far off on one side: more than a trimmed mean cuts there
LOPSIDED = SPREAD / 20 + np.where(np.arange(N) < 3, 20.0, 0.0)[:, None]


def others(names):
    return [name for name in RULES if name not in names]


def test_the_rules_named_here_are_registered():
    assert set(SCALED) <= set(RULES)


@pytest.mark.parametrize("name", others(SHUFFLING))
@few
@given(drawn_rows, directions, orders)
def test_the_order_of_the_rows_does_not_matter(name, rows, root, order):
    before = update_of(RULES[name], rows, root, WEIGHTS)
    assert_close(update_of(RULES[name], rows[order], root, WEIGHTS[order]), before)


@pytest.mark.parametrize("name", TRANSLATED)
@few
@given(drawn_rows, directions, shifts)
def test_rows_that_move_together_take_the_update_with_them(name, rows, root, shift):
    expected = update_of(RULES[name], rows, root) + shift
    assert_close(update_of(RULES[name], rows + shift, root + shift), expected)


@pytest.mark.parametrize("name", others(TRANSLATED))
def test_these_rules_know_where_zero_is(name):
    """The control: a shift of all rows and the root update is not a shift of the update."""
    expected = update_of(RULES[name], LOPSIDED, ROOT) + 100
    moved = update_of(RULES[name], LOPSIDED + 100, ROOT + 100)
    assert np.abs(moved - expected).max() > 0.1


@pytest.mark.parametrize("name", SCALED)
@few
@given(drawn_rows, directions, factors)
def test_longer_rows_make_a_longer_update(name, rows, root, factor):
    expected = factor * update_of(RULES[name], rows, root)
    assert_close(update_of(RULES[name], factor * rows, factor * root), expected)


@pytest.mark.parametrize("name", others(SCALED))
def test_these_rules_have_a_length_of_their_own(name):
    """The control: of rows a hundred times as long the update is not a hundred times as long."""
    long = update_of(RULES[name], 100 * SPREAD, 100 * ROOT)
    assert np.linalg.norm(long) < 50 * np.linalg.norm(update_of(RULES[name], SPREAD, ROOT))


@few
@given(drawn_rows, directions, factors)
def test_a_majority_of_signs_has_no_length(rows, root, factor):
    rule = RULES["sign_majority"]
    np.testing.assert_array_equal(update_of(rule, factor * rows, root), update_of(rule, rows, root))


@pytest.mark.parametrize("name", RULES)
@few
@given(drawn_rows, directions)
def test_opposite_rows_make_the_opposite_update(name, rows, root):
    """Noise apart."""
    assert_close(update_of(RULES[name], -rows, -root), -update_of(RULES[name], rows, root))


def longest(rows):
    return np.linalg.norm(rows, axis=1).max()


# The farthest that f rows can take the update from the nearest honest row, in diameters of the
# honest rows.
NEIGHBOURS = N - F - 2
AWAY = {
    # each coordinate stays within the honest values
    "median": np.sqrt(D),
    "trimmed_mean": np.sqrt(D),
    "bucketing+median": np.sqrt(D),
    # within a range of the median, which is within the honest values
    "meamed": 2 * np.sqrt(D),
    "bulyan": 2 * np.sqrt(D),
    # a row that beats an honest one has an honest neighbour; its score is at most theirs
    "krum": np.sqrt(NEIGHBOURS),
    "multi_krum": 1 + np.sqrt(NEIGHBOURS),
    # twice (n - f) / (n - 2 f) radii from any honest centre
    "geometric_median": 2 * (N - F) / (N - 2 * F),
    # a smaller diameter than the honest rows', with an honest row in it
    "mda": 1.0,
    # mixed honest rows are within a diameter of their own place, so three apart
    "nnm+krum": 1 + 3 * np.sqrt(NEIGHBOURS),
    "nnm+median": 1 + 3 * np.sqrt(D),
}
# The longest that f rows can make the update, from the honest rows and the root update; 0 is the
# model, and the centre.
LENGTH = {
    "norm_bound": lambda honest, root: 1.0,
    "weak_dp": lambda honest, root: 1.0,
    "centered_clip": lambda honest, root: 1.0,
    "clipping+krum": lambda honest, root: 1.0,
    "crfl": lambda honest, root: 15.0,
    "sign_majority": lambda honest, root: 1e-3 * np.sqrt(D),
    "clipped_median": lambda honest, root: np.sqrt(D) * min(2.0, longest(honest)),
    "clipped_trimmed_mean": lambda honest, root: np.sqrt(D) * longest(honest),
    "nnm+clipped_trimmed_mean": lambda honest, root: (
        np.sqrt(D) * (longest(honest) + diameter(honest))
    ),
    "fltrust": lambda honest, root: np.linalg.norm(root),
    "trusted_trimmed_mean": lambda honest, root: (
        0.5 * np.sqrt(D) * longest(honest) + 0.5 * np.linalg.norm(root)
    ),
    # the median of the norms is at most that of an honest row
    "flame": lambda honest, root: longest(honest),
}
# the mean of all, and weights by likeness only
UNBOUNDED = ["client_trust", "mean", "foolsgold"]

attacks = st.tuples(drawn_rows, st.sampled_from([0.1, 1.0, 10.0, 1e3, 1e6]), orders)


def under_attack(rows, attack):
    """The rows with f of them replaced, and those that are left."""
    bad, size, order = attack
    malicious = order[:F]
    attacked = rows.copy()
    attacked[malicious] = size * bad[:F]
    return attacked, np.delete(rows, malicious, axis=0)


def test_every_rule_has_a_bound_or_none():
    assert sorted([*AWAY, *LENGTH, *UNBOUNDED]) == sorted(RULES)


@pytest.mark.parametrize("name", AWAY)
@few
@given(drawn_rows, directions, attacks)
def test_f_rows_leave_the_update_near_the_honest_ones(name, rows, root, attack):
    attacked, honest = under_attack(rows, attack)
    update = update_of(RULES[name], attacked, root)
    away = np.linalg.norm(honest - update, axis=1).min()
    assert away <= AWAY[name] * diameter(honest) * (1 + 1e-4)


@pytest.mark.parametrize("name", LENGTH)
@few
@given(drawn_rows, directions, attacks)
def test_f_rows_do_not_make_the_update_long(name, rows, root, attack):
    attacked, honest = under_attack(rows, attack)
    update = update_of(RULES[name], attacked, root)
    assert np.linalg.norm(update) <= LENGTH[name](honest, root) * (1 + 1e-4)


@pytest.mark.parametrize("size", [1e3, 1e6])
@pytest.mark.parametrize("name", AWAY)
def test_a_majority_takes_the_update_anywhere(name, size):
    """The control: beyond the breakdown point the update follows the rows that are far away."""
    rows = SPREAD / 20
    rows[: N // 2 + 1] += size
    assert np.linalg.norm(update_of(RULES[name], rows, ROOT)) > 0.5 * size


@pytest.mark.parametrize("name", UNBOUNDED)
def test_one_row_takes_these_anywhere(name):
    rows = np.concatenate([SPREAD[:-1] / 20, 1e6 * np.ones((1, D))])
    assert np.linalg.norm(update_of(RULES[name], rows, ROOT)) > 1e4
