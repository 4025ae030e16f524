"""What families share, beside the same written out in NumPy: whoever is absent, however many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators.order import medians
from metasg_jax.features.base import MOST_ONE_BY_ONE, ServerData, others, rows_of
from metasg_jax.features.inputs import inputs
from metasg_jax.features.layout import layout_of
from metasg_jax.numerics import MAX_UNROLLED
from tests.rounds import round_of

COUNTS = (2, 7, MOST_ONE_BY_ONE, MOST_ONE_BY_ONE + 1, MAX_UNROLLED + 1)
# wider than a block of a product: few rows are then multiplied one by one
PARAMS = {"a": np.zeros((90, 60), np.float32), "b": np.zeros(10), "c": np.zeros((60, 10))}
LAYOUT = layout_of(PARAMS)


def some(n, gone):
    present = np.ones(n, bool)
    present[:gone] = False
    return present


@pytest.mark.parametrize("gone", [0, 1, 2])
@pytest.mark.parametrize("n", (*COUNTS, 1000))
def test_medians_are_numpys(n, gone):
    values = np.random.default_rng(n).normal(size=(n, 5)).astype(np.float32)
    values[:, 1] = 0.5  # ties
    present = some(n, gone)
    expected = np.median(values[present], axis=0) if present.any() else np.zeros(5)
    values[~present] = np.nan
    np.testing.assert_allclose(jax.jit(medians)(values, present), expected, rtol=1e-6)


@pytest.mark.parametrize("n", [2, MAX_UNROLLED, MAX_UNROLLED + 1])
def test_medians_have_finite_slopes_beside_absent_rows(n):
    values = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    present = some(n, 1)
    slopes = jax.grad(lambda v: medians(v, present).sum())(values)
    assert np.isfinite(slopes).all() and not np.asarray(slopes)[0].any()
    np.testing.assert_allclose(slopes.sum(), 3.0, rtol=1e-5)


@pytest.mark.parametrize("gone", [0, 1, 2])
@pytest.mark.parametrize("n", [2, 7, 20])
def test_others_are_told_one_row_at_a_time(n, gone):
    cosines = np.random.default_rng(n).uniform(-1, 1, size=(3, n, n)).astype(np.float32)
    present = some(n, gone)
    found = jax.jit(others)(cosines, present)
    for k in range(3):
        for i in range(n):
            theirs = np.sort([cosines[k, i, j] for j in range(n) if j != i and present[j]])
            count = len(theirs)
            if not count:
                expected = dict.fromkeys(found, 0.0)
            else:
                expected = {
                    "lowest": theirs[0], "quartile": theirs[count // 4],
                    "median": theirs[count // 2], "second": theirs[max(count - 2, 0)],
                    "highest": theirs[-1], "mean": theirs.mean(),
                }  # fmt: skip
            for name, value in expected.items():
                np.testing.assert_allclose(found[name][k, i], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", COUNTS)
def test_rows_hold_the_products_of_each_layer(n):
    got = round_of(np.random.default_rng(n).normal(size=(n, LAYOUT.size)))
    got.updates[0, 3] = np.nan
    rows = jax.jit(rows_of, static_argnums=1)(got, LAYOUT)
    clean = np.where(np.isfinite(got.updates).all(axis=1)[:, None], got.updates, 0).astype(float)
    layers = [np.concatenate([clean[:, s.start : s.stop] for s in x], 1) for x in LAYOUT.layers]
    for layer, gram, lengths in zip(layers, rows.grams, rows.lengths, strict=True):
        np.testing.assert_allclose(gram, layer @ layer.T, rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(lengths, np.linalg.norm(layer, axis=1), rtol=1e-5)
    np.testing.assert_allclose(rows.gram, clean @ clean.T, rtol=1e-4, atol=1e-2)
    norms = np.linalg.norm(clean, axis=1)
    np.testing.assert_allclose(rows.norms, norms, rtol=1e-5)
    np.testing.assert_allclose(rows.middle, np.median(norms[1:]), rtol=1e-5)


def test_rounds_side_by_side_are_told_as_one_by_one():
    """As the simulator's rollouts are; slopes are finite beside a row that is not there."""
    rows = np.random.default_rng(0).normal(size=(3, 5, LAYOUT.size)).astype(np.float32)
    rows[1, 2] = np.inf
    server = ServerData(None, None, LAYOUT)

    @jax.jit
    def told(updates):
        seen = rows_of(round_of(np.zeros((5, LAYOUT.size))).replace(updates=updates), LAYOUT)
        return seen.grams.sum() / LAYOUT.size + inputs(seen, server).sum()

    apart = [told(each) for each in rows]
    np.testing.assert_allclose(jax.vmap(told)(jnp.asarray(rows)), apart, rtol=1e-4)
    assert np.isfinite(jax.vmap(jax.grad(told))(jnp.asarray(rows))).all()
