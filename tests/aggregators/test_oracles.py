"""Every registered rule against a plain NumPy statement of it."""

import dataclasses

import jax
import numpy as np
import pytest

from metasg_jax.aggregators import AGGREGATORS, ClippedTrimmedMean, Krum
from metasg_jax.aggregators.order import comparators, order_statistics
from tests import oracles
from tests.rounds import round_of

# odd, even, powers of two or not; above 64 rows the network gives way to a sort
SIZES = [3, 4, 7, 10, 11, 20, 70]


def rows_of(kind, n, seed, d=6):
    rng = np.random.default_rng(seed)
    if kind == "distinct":
        return (rng.normal(size=d) + rng.normal(size=(n, d))).astype(np.float32)
    if kind == "ties":  # small whole numbers: equal values, equal rows, exact arithmetic
        rows = rng.integers(-2, 3, size=(n, d)).astype(np.float32)
        rows[1] = rows[0]
        return rows + (np.abs(rows).sum(axis=1, keepdims=True) == 0)
    rows = rng.normal(size=(n, d)).astype(np.float32)
    rows[: n // 4] *= 1e3
    return rows


def expected(name, rule, rows, weights, root):
    fields = {f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)}
    return oracles.RULES[name](
        rows.astype(np.float64), np.float64(weights), np.float64(root), **fields
    )


@jax.jit
def run(rule, got):
    return rule(jax.random.key(0), rule.init(*got.updates.shape), got)


def check(name, rule, rows, weights=None):
    weights = np.ones(len(rows)) if weights is None else weights
    root = rows[0] + 0.5 * np.roll(rows[-1], 1)
    update, _, _ = run(rule, round_of(rows, weights, root))
    want = expected(name, rule, rows, weights, root)
    np.testing.assert_allclose(update, want, rtol=1e-4, atol=1e-5 * np.abs(want).max() + 1e-12)


def test_every_registered_rule_has_an_oracle():
    assert set(oracles.RULES) == set(AGGREGATORS)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", AGGREGATORS)
def test_rule_equals_its_oracle(name, n):
    """One test for all kinds of rows: they share a compilation."""
    for kind in ("distinct", "ties", "outliers"):
        for seed in range(3):
            rows = rows_of(kind, n, 100 * n + seed)
            check(name, AGGREGATORS[name](), rows, np.random.default_rng(seed).integers(1, 9, n))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("trimmed_mean", {"beta": 0.0}),
        ("trimmed_mean", {"beta": 0.1}),
        ("trimmed_mean", {"beta": 0.3}),  # 0.3 * 10 is 3 although 0.3f * 10 is not
        ("trimmed_mean", {"beta": 0.45}),
        ("norm_bound", {"max_norm": 0.1}),
        ("norm_bound", {"max_norm": 1e6}),
        ("clipped_median", {"max_norm": 0.1}),
        ("clipped_median", {"max_norm": 1e6}),
        ("krum", {"f": 0.0}),
        ("krum", {"f": 1.0}),
        ("krum", {"f": 4.0}),
        ("clipped_trimmed_mean", {"clip": 1.0, "trim": -1.0}),
        ("clipped_trimmed_mean", {"clip": 1.0, "trim": 1.0}),
        ("clipped_trimmed_mean", {"clip": -1.0, "trim": -0.3}),
        ("clipped_trimmed_mean", {"clip": 0.25, "trim": 0.6}),
    ],
)
@pytest.mark.parametrize("n", [7, 10])
def test_other_settings_equal_the_oracle(name, fields, n):
    check(name, AGGREGATORS[name](**fields), rows_of("outliers", n, n))


@pytest.mark.parametrize("n", range(1, 65))
def test_the_network_sorts(n):
    """By the 0-1 principle: whatever sorts all 0-1 inputs sorts. Sampled where 2^n are too many."""
    rng = np.random.default_rng(n)
    inputs = rng.integers(0, 2, (512, n)) if n > 9 else np.array(list(np.ndindex(*(2,) * n)))
    # step functions shuffled: each count of ones occurs
    shuffled = rng.permuted(np.tri(n + 1, n, -1, dtype=int), axis=1)
    wires = np.concatenate([inputs, shuffled]).T.copy()
    for i, j in comparators(n):
        wires[i], wires[j] = np.minimum(wires[i], wires[j]), np.maximum(wires[i], wires[j])
    assert (np.diff(wires, axis=0) >= 0).all()


@pytest.mark.parametrize("n", [*SIZES, 50])  # a network of 50 takes seconds to compile
def test_order_statistics_are_numpys_bit_for_bit(n):
    rows = np.random.default_rng(n).normal(size=(n, 5)).astype(np.float32)
    rows[1] = rows[0]
    statistic = jax.jit(order_statistics)
    got = np.stack([statistic(rows, np.ones(n, bool), rank) for rank in np.eye(n, dtype="f")])
    np.testing.assert_array_equal(got, np.sort(rows, axis=0))


@pytest.mark.parametrize("f", [0.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_krum_when_clients_almost_agree(seed, f):
    """Mean 1e3, differences 1e-3: squares of size 1e6 have no digit left for them in float32."""
    rng = np.random.default_rng(seed)
    rows = (1e3 + 1e-3 * rng.normal(size=(10, 40))).astype(np.float32)
    _, _, info = run(Krum(f=f), round_of(rows))
    assert info["selected"] == np.argmin(oracles.krum_scores(rows.astype(np.float64), f))


@pytest.mark.parametrize("size", [1e4, 1e6, 1e12, 6.6e18])
@pytest.mark.parametrize("seed", range(3))
def test_krum_is_not_blinded_by_outliers(seed, size):
    """Two far rows must not cost the digits that tell the honest rows apart."""
    rows = np.random.default_rng(seed).normal(size=(10, 7)).astype(np.float32)
    rows[[3, 8]] = size
    _, _, info = run(Krum(f=2.0), round_of(rows))
    assert info["selected"] == np.argmin(oracles.krum_scores(rows.astype(np.float64), 2))


def test_krum_takes_the_first_of_equals():
    rows = np.repeat([[5.0, 5.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], [1, 2, 3, 1], axis=0)
    assert run(Krum(f=1.0), round_of(rows))[2]["selected"] == 1


@pytest.mark.parametrize("trim", [-1.0, -0.2, 0.4, 1.0])
def test_fractional_trim_interpolates_with_absent_rows(trim):
    rows = rows_of("distinct", 10, 5)
    rule = ClippedTrimmedMean(clip=0.0, trim=trim)
    weights = np.ones(10)
    weights[[2, 7]] = 0.0
    update = run(rule, round_of(rows, weights))[0]
    want = expected(
        "clipped_trimmed_mean", rule, np.delete(rows, [2, 7], axis=0), np.ones(8), rows[0]
    )
    np.testing.assert_allclose(update, want, rtol=1e-4, atol=1e-6)
