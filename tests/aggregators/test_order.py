"""Order statistics over clients are those of a sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators.order import (
    MAX_COUNTED,
    Window,
    by_counting,
    by_network,
    comparators,
    median_window,
    order_statistics,
    trimmed_window,
)

# odd, even, powers of two or not
SIZES = [3, 4, 7, 10, 11, 20]


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


def single(rank):
    """The window that holds one rank."""
    one, zero = jnp.ones(()), jnp.zeros(())
    return Window(jnp.int32(rank), jnp.int32(rank), one, zero, zero)


@pytest.mark.parametrize("method", [by_network, by_counting])
@pytest.mark.parametrize("n", [*SIZES, 50])
def test_order_statistics_are_numpys_bit_for_bit(n, method):
    """Ties, signs, zeros and 40 orders of magnitude; d is no multiple of the counted block."""
    rng = np.random.default_rng(n)
    rows = rng.normal(size=(n, 301)).astype(np.float32)
    rows[:, 100:200] *= 10.0 ** rng.integers(-20, 18, size=(n, 100))
    rows[:, 200:] = rng.integers(-2, 3, size=(n, 101))
    rows[1] = rows[0]
    statistic = jax.jit(method)
    got = np.stack([statistic(rows, np.ones(n, bool), single(rank)) for rank in range(n)])
    np.testing.assert_array_equal(got, np.sort(rows, axis=0))


@pytest.mark.parametrize("n", [129, 200, 1000])
def test_counting_equals_the_sort_for_many_rows(n):
    """Above the network's size; a third of the rows absent, some of them huge."""
    rng = np.random.default_rng(n)
    rows = rng.normal(size=(n, 150)).astype(np.float32)
    rows[:, ::3] = rng.integers(-2, 3, size=(n, 50))
    rows[: n // 5] *= 1e18
    present = rng.random(n) > 0.3
    ordered, count = np.sort(rows[present], axis=0), present.sum()
    median = jax.jit(order_statistics)(rows, present, median_window(jnp.asarray(present)))
    want = 0.5 * ordered[(count - 1) // 2] + np.float32(0.5) * ordered[count // 2]
    np.testing.assert_array_equal(median, want)
    for share in (0.0, 0.2, 0.333, 0.49):
        window = trimmed_window(jnp.asarray(present), jnp.float32(share * count))
        kept = np.clip(np.arange(count) + 1 - share * count, 0, 1)
        kept = np.minimum(kept, kept[::-1])
        want = kept @ ordered.astype(np.float64) / kept.sum()
        got = jax.jit(order_statistics)(rows, present, window)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * np.abs(want).max())


def test_a_sort_serves_where_counts_do_not_fit():
    rows = np.random.default_rng(0).normal(size=(MAX_COUNTED + 1, 2)).astype(np.float32)
    present = jnp.ones(len(rows), bool)
    got = order_statistics(jnp.asarray(rows), present, median_window(present))
    np.testing.assert_allclose(got, np.median(rows, axis=0), rtol=1e-6)


def test_the_network_is_one_loop():
    """Cut into several, XLA repeats most of the network in each of them."""
    rows = jnp.zeros((40, 4096))
    present = jnp.ones(40, bool)
    lowered = jax.jit(by_network).lower(rows, present, median_window(present))
    text = lowered.compile().as_text()
    passes = [line for line in text[text.index("ENTRY") :].splitlines() if "4096" in line]
    assert sum(" fusion(" in line for line in passes) == 1
