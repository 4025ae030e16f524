"""Symmetries of the crafts, and the constraints that they keep, on drawn honest rows."""

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metasg_jax.aggregators import Krum
from metasg_jax.attacks import ALIE, IPM, LMP, LMPKrum, LMPTrim, Mimic, MinMax, MinSum, SignFlip
from tests.attacks.crafting import crafted_rows
from tests.rounds import round_of

N, M, D = 9, 2, 5
CRAFTS = {
    "ipm": IPM(scale=2.0),
    "alie": ALIE(),
    "lmp": LMP(),
    "lmp_krum": LMPKrum(),
    "lmp_trim": LMPTrim(),
    "min_max": MinMax(),
    "min_max, sign": MinMax(perturbation="sign"),
    "min_max, std": MinMax(perturbation="std"),
    "min_sum": MinSum(),
    "min_sum, sign": MinSum(perturbation="sign"),
    "min_sum, std": MinSum(perturbation="std"),
    "sign_flip": SignFlip(),
    "mimic": Mimic(),
}
# they deviate from the honest mean by differences between honest rows, or send one of them
TRANSLATED = ["alie", "min_max, std", "min_sum, std", "mimic"]
# they go against the honest way; a deviation has no way, and mimic goes to one side always
ODD = [name for name in CRAFTS if name not in TRANSLATED]

# the same examples in every run
few = settings(max_examples=20, deadline=None, derandomize=True, database=None)
# whole numbers, and what makes them differ: no mean is 0, and no two rows are equally far out
JITTER = 0.5 * np.random.default_rng(0).normal(size=(N, D))
drawn_rows = arrays(np.float32, (N, D), elements=st.integers(-4, 4).map(float)).map(
    lambda whole: np.float32(whole + JITTER)
)
shifts = arrays(np.float32, (D,), elements=st.integers(-20, 20).map(float))
orders = st.permutations(range(M, N)).map(lambda order: np.array([*range(M), *order]))
# exact in binary: a craft that tries sizes must come to the same one
factors = st.integers(-6, 6).map(lambda power: np.float32(2.0**power))


def assert_close(ours, expected) -> None:
    """Equal but for float32's rounding, relative to the largest entry."""
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", CRAFTS)
@few
@given(drawn_rows, orders)
def test_the_order_of_the_honest_rows_does_not_matter(name, rows, order):
    attack = CRAFTS[name]
    assert_close(crafted_rows(attack, rows[order]), crafted_rows(attack, rows))


@pytest.mark.parametrize("name", CRAFTS)
@few
@given(drawn_rows, factors)
def test_longer_honest_rows_make_longer_crafted_ones(name, rows, factor):
    """The threshold of lmp_krum is a length, too."""
    attack = CRAFTS[name]
    longer = attack.replace(threshold=attack.threshold * factor) if name == "lmp_krum" else attack
    assert_close(crafted_rows(longer, factor * rows), factor * crafted_rows(attack, rows))


@pytest.mark.parametrize("name", TRANSLATED)
@few
@given(drawn_rows, shifts)
def test_honest_rows_that_move_together_take_the_crafted_ones_with_them(name, rows, shift):
    expected = crafted_rows(CRAFTS[name], rows) + shift
    assert_close(crafted_rows(CRAFTS[name], rows + shift), expected)


@pytest.mark.parametrize("name", ODD)
def test_these_crafts_know_where_zero_is(name):
    """The control."""
    expected = crafted_rows(CRAFTS[name], JITTER) + 100
    assert np.abs(crafted_rows(CRAFTS[name], JITTER + 100) - expected).max() > 0.1


@pytest.mark.parametrize("name", ODD)
@few
@given(drawn_rows)
def test_opposite_honest_rows_make_opposite_crafted_ones(name, rows):
    assert_close(crafted_rows(CRAFTS[name], -rows), -crafted_rows(CRAFTS[name], rows))


@pytest.mark.parametrize("name", TRANSLATED)
def test_these_crafts_have_a_side_of_their_own(name):
    """The control."""
    opposite = crafted_rows(CRAFTS[name], -JITTER)
    assert np.abs(opposite + crafted_rows(CRAFTS[name], JITTER)).max() > 0.1


def squared_distances(a, b):
    return np.sum((np.float64(a)[:, None] - np.float64(b)[None]) ** 2, axis=2)


@pytest.mark.parametrize("name", [name for name in CRAFTS if name.startswith("min_max")])
@few
@given(drawn_rows)
def test_min_max_is_as_far_out_as_the_two_farthest_honest_rows(name, rows):
    sent, honest = crafted_rows(CRAFTS[name], rows), rows[M:]
    most = squared_distances(honest, honest).max()
    np.testing.assert_allclose(squared_distances(sent, honest).max(axis=1), most, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in CRAFTS if name.startswith("min_sum")])
@few
@given(drawn_rows)
def test_min_sum_is_as_far_from_all_as_the_farthest_honest_row(name, rows):
    sent, honest = crafted_rows(CRAFTS[name], rows), rows[M:]
    most = squared_distances(honest, honest).sum(axis=1).max()
    np.testing.assert_allclose(squared_distances(sent, honest).sum(axis=1), most, rtol=1e-4)


@jax.jit
def krum_selects(received):
    return Krum(f=M)(None, (), received)[2]["selected"]


@few
@given(drawn_rows)
def test_lmp_krum_is_what_krum_takes_or_next_to_nothing(rows):
    attack = CRAFTS["lmp_krum"]
    sent = crafted_rows(attack, rows)
    if np.abs(sent).max() > attack.threshold:
        assert krum_selects(round_of(np.concatenate([sent, rows[M:]]))) < M


@few
@given(drawn_rows)
def test_lmp_krum_takes_the_largest_size_it_tries(rows):
    """Twice as far out, Krum takes an honest row."""
    attack = CRAFTS["lmp_krum"]
    sent = crafted_rows(attack, rows)
    mean = rows[M:].mean(axis=0)
    start = np.linalg.norm(rows[M:], axis=1).max() / np.sqrt(D)
    assume(np.abs(sent).max() < start)  # at least one halving
    assert krum_selects(round_of(np.concatenate([2 * sent, rows[M:]]))) >= M
    np.testing.assert_array_equal(np.sign(sent), -np.sign(mean)[None].repeat(M, axis=0))


@few
@given(drawn_rows)
def test_lmp_trim_is_outside_the_honest_values(rows):
    sent, honest = crafted_rows(CRAFTS["lmp_trim"], rows), rows[M:]
    against = np.where(
        honest.mean(axis=0) > 0, sent <= honest.min(axis=0), sent >= honest.max(axis=0)
    )
    assert against.all()


@few
@given(drawn_rows)
def test_mimic_sends_an_honest_row(rows):
    sent = crafted_rows(CRAFTS["mimic"], rows)
    assert (np.abs(rows[M:] - sent[:1]).max(axis=1) == 0).any()
