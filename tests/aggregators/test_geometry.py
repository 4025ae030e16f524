"""Distances by one product, against float64: blocks, hostile rows, clients that almost agree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators import GeometricMedian, Krum, MultiKrum
from metasg_jax.aggregators.geometry import (
    BLOCK,
    MAX_RATIO,
    centred_gram,
    medoid,
    mixture,
    nearest,
    squared_distances,
    sums_of_ranks,
)
from metasg_jax.aggregators.order import MAX_NETWORK
from metasg_jax.numerics import MAX_UNROLLED
from tests import oracles
from tests.rounds import round_of


@jax.jit
def measured(got):
    gram, present = centred_gram(got)
    return squared_distances(gram, present), gram, present


def exact(rows):
    rows = np.float64(rows)
    return np.sum((rows[:, None] - rows[None]) ** 2, axis=2)


def agreeing(seed, n=10, d=50, noise=1e-4):
    """Rows equal up to a relative noise: their squares are 1e8 times their distances."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=d)[None] * (1 + noise * rng.normal(size=(n, d)))
    return rows.astype(np.float32)


@pytest.mark.parametrize("d", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 5])
def test_blocks_of_any_width_add_up(d):
    rng = np.random.default_rng(d)
    for rows in (rng.normal(size=(5, d)), 1e3 + rng.normal(size=(5, d))):  # one pass, and two
        rows = rows.astype(np.float32)
        distances, _, _ = measured(round_of(rows))
        np.testing.assert_allclose(distances, exact(rows), rtol=1e-4)


@pytest.mark.parametrize("far", [0, 7])
@pytest.mark.parametrize("size", [1.0, 1e3, 1e6, 1e9, 1e12, 1e15])
def test_no_digit_is_lost_when_clients_almost_agree(size, far):
    """Whatever one row does, and wherever it stands."""
    for seed in range(3):
        rows = agreeing(seed)
        rows[far] *= size
        distances, _, _ = measured(round_of(rows))
        np.testing.assert_allclose(distances, exact(rows), rtol=1e-4)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
def test_absent_rows_cost_no_digits(poison):
    rows = agreeing(0, d=BLOCK + 7)
    want = exact(np.delete(rows, [0, 4], axis=0))
    rows[0], rows[4, -1] = poison, poison
    distances, gram, present = measured(round_of(rows))
    kept = np.flatnonzero(present)
    np.testing.assert_array_equal(kept, np.delete(np.arange(10), [0, 4]))
    np.testing.assert_allclose(distances[np.ix_(kept, kept)], want, rtol=1e-4)
    assert np.isposinf(distances[0]).all() and np.isposinf(distances[:, 4]).all()
    assert np.all(gram[0] == 0) and np.all(gram[:, 4] == 0)


def test_far_rows_on_several_scales():
    """Four of ten rows, each of which hides what is smaller behind its own rounding errors."""
    rows = agreeing(1)
    rows[:4] *= np.array([1e14, -1e10, 1e6, 1e2])[:, None]
    distances, _, _ = measured(round_of(rows))
    np.testing.assert_allclose(distances[4:, 4:], exact(rows[4:]), rtol=1e-4)


def test_batched_rounds_equal_single_ones():
    """One of them needs a second pass, one does not, one has an absent row."""
    rng = np.random.default_rng(0)
    rows = np.stack([agreeing(0), rng.normal(size=(10, 50)), agreeing(1)]).astype(np.float32)
    rows[2, 3] = np.nan
    rounds = [round_of(r) for r in rows]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rounds)
    batched, _, present = jax.vmap(measured)(stacked)
    for i, got in enumerate(rounds):
        np.testing.assert_allclose(batched[i], measured(got)[0], rtol=1e-5)
    assert present.sum() == 29


def test_the_centre_is_near_most_rows():
    """What the accuracy rests on: the diagonal is the squared distance to the centre."""
    for rows in (agreeing(0), np.random.default_rng(0).normal(size=(10, 50))):
        distances, gram, present = measured(round_of(rows))
        middle, radius = medoid(distances, present)
        assert gram[middle, middle] <= MAX_RATIO * radius


def test_the_medoid_has_the_smallest_majority_ball():
    # of 5 rows a majority is 3: 1.0 has 0.5 and 1.4 within 0.5, nobody has less
    rows = np.array([[9.0], [0.5], [1.0], [1.4], [-9.0]])
    distances, _, present = measured(round_of(rows))
    middle, radius = medoid(distances, present)
    assert middle == 2
    np.testing.assert_allclose(radius, 0.25, rtol=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e3, 1e9, 1e15])
def test_rules_when_clients_almost_agree(size):
    """The rules that rest on these distances, to a part in 1e4 of what clients differ by."""
    for seed in range(3):
        rows = agreeing(seed, d=40)
        rows[1] *= size
        spread = oracles.half_radius(np.float64(rows))
        for rule, oracle, fields in [
            (Krum(f=2.0), oracles.krum, {"f": 2}),
            (MultiKrum(f=2.0), oracles.multi_krum, {"f": 2, "m": None}),
        ]:
            want = oracle(np.float64(rows), None, None, **fields)
            update = jax.jit(type(rule).__call__)(rule, None, (), round_of(rows))[0]
            np.testing.assert_allclose(update, want, rtol=1e-6)
        rule = GeometricMedian()
        want = oracles.geometric_median(np.float64(rows), None, None, 1e-3, None, None)
        update = jax.jit(type(rule).__call__)(rule, None, (), round_of(rows))[0]
        # the sum over rows rounds at the size of the rows, hence the second term
        atol = 1e-4 * spread + 3e-7 * np.abs(want).max()
        np.testing.assert_allclose(update, want, rtol=0, atol=atol)


@pytest.mark.parametrize("n", [6, MAX_UNROLLED + 3])
def test_mixtures_leave_out_what_absent_rows_hold(n):
    rng = np.random.default_rng(n)
    rows, weights = rng.normal(size=(n, 9)).astype("f"), rng.random((4, n)).astype("f")
    mixed = jax.jit(mixture)
    everyone = np.ones(n, bool)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(mixed(weights, rows, everyone), weights @ rows)
    rows[2], weights[:, 2] = np.nan, 0.0
    want = np.delete(weights, 2, axis=1) @ np.delete(rows, 2, axis=0)
    present = np.arange(n) != 2
    close(mixed(weights, rows, present), want)
    close(mixed(weights[0], rows, present), want[0])


@pytest.mark.parametrize("n", [9, MAX_UNROLLED + 2, MAX_NETWORK + 2])
def test_who_is_nearest_is_what_a_stable_sort_says(n):
    """Also among equals, where rows are absent, and where all distances are infinite."""
    x = np.random.default_rng(n).integers(0, 4, (n, 3)).astype(np.float32)
    distances = ((x[:, None].astype(np.float64) - x[None]) ** 2).sum(-1).astype(np.float32)
    distances[1], distances[:, 1] = np.inf, np.inf
    distances[:, -2:] = np.inf
    order = np.argsort(np.argsort(distances, axis=1, kind="stable"), axis=1, kind="stable")
    ordered = np.sort(distances, axis=1)
    for count in (1, n // 3, 0.6 * n):
        got = jax.jit(nearest)(jnp.asarray(distances), jnp.float32(count))
        np.testing.assert_array_equal(got, order < count)
        ranks = np.arange(n)
        want = np.where((ranks >= 1) & (ranks <= count), ordered, 0.0).sum(axis=1)
        found = jax.jit(sums_of_ranks)(jnp.asarray(distances), 1, jnp.float32(count))
        few = np.isfinite(want)
        np.testing.assert_allclose(found[few], want[few], rtol=1e-5)
        assert (np.asarray(found)[~few] > 1e38).all()
