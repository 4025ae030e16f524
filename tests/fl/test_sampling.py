"""Who is drawn: distinct, in range, and equally likely (k-sigma with fixed seeds)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.fl import sample_clients, sample_positions

DRAWS = 6000


def clients(num_clients, num_sampled, draws=DRAWS, seed=0):
    keys = jax.random.split(jax.random.key(seed), draws)
    sample = jax.vmap(lambda key: sample_clients(key, num_clients, num_sampled))
    return np.asarray(jax.jit(sample)(keys))


def positions(sizes, steps, batch_size, draws=1, seed=0):
    keys = jax.random.split(jax.random.key(seed), draws)
    sizes = jnp.asarray(sizes, jnp.int32)
    sample = jax.vmap(lambda key: sample_positions(key, sizes, steps, batch_size))
    return np.asarray(jax.jit(sample)(keys))


def assert_equally_likely(counts, draws, share, sigmas=4.5):
    sigma = np.sqrt(draws * share * (1 - share))
    assert np.abs(np.asarray(counts) - draws * share).max() <= sigmas * sigma


@pytest.mark.parametrize(("big", "n"), [(1, 1), (5, 1), (5, 3), (10, 10), (100, 10), (1000, 40)])
def test_sampled_clients_are_distinct_and_known(big, n):
    drawn = clients(big, n, draws=200)
    assert drawn.shape == (200, n) and drawn.dtype == np.int32
    assert (np.diff(np.sort(drawn, axis=1), axis=1) > 0).all()
    assert drawn.min() >= 0 and drawn.max() < big


@pytest.mark.parametrize(("big", "n"), [(5, 1), (5, 3), (20, 7), (30, 29)])
def test_every_client_is_equally_likely(big, n):
    counts = np.bincount(clients(big, n).ravel(), minlength=big)
    assert_equally_likely(counts, DRAWS, n / big)


@pytest.mark.parametrize(("big", "n"), [(5, 2), (6, 3), (6, 5)])
def test_every_set_is_equally_likely(big, n):
    drawn = [tuple(row) for row in np.sort(clients(big, n), axis=1)]
    sets = list(itertools.combinations(range(big), n))
    assert_equally_likely([drawn.count(one) for one in sets], DRAWS, 1 / len(sets))


def test_all_clients_are_a_permutation():
    assert (np.sort(clients(12, 12, draws=50), axis=1) == np.arange(12)).all()


SIZES = np.array([1, 2, 3, 7, 8, 9, 15, 16, 100, 60000])


@pytest.mark.parametrize("batch_size", [1, 8])
def test_positions_are_within_the_clients_list(batch_size):
    drawn = positions(SIZES, 3, batch_size, draws=100)
    assert drawn.shape == (100, SIZES.size, 3, batch_size) and drawn.dtype == np.int32
    assert (drawn >= 0).all()
    assert (drawn < SIZES[:, None, None]).all()


def test_a_batch_from_a_list_at_least_as_long_has_no_repetition():
    drawn = np.sort(positions(SIZES, 3, 8, draws=100), axis=-1)
    distinct = (np.diff(drawn, axis=-1) > 0).all(axis=(0, 2, 3))
    np.testing.assert_array_equal(distinct, SIZES >= 8)
    assert (drawn[:, SIZES == 8] == np.arange(8)).all()


def test_every_image_is_equally_likely():
    """At every place of the batch: one place of each batch is an independent draw."""
    sizes = [3, 8, 11, 29]
    drawn = positions(sizes, 1, 8, draws=DRAWS)[:, :, 0]
    for i, size in enumerate(sizes):
        for place in range(8):
            counts = np.bincount(drawn[:, i, place], minlength=size)
            assert_equally_likely(counts, DRAWS, 1 / size)


def test_steps_and_clients_draw_apart():
    drawn = positions([1000] * 3, 4, 8)[0]
    assert len({tuple(batch) for batch in drawn.reshape(-1, 8)}) == 12


def test_adding_a_client_does_not_change_the_others():
    """So that asking for the server's own update changes nothing else in a round."""
    sizes = [50, 9, 30, 70]
    np.testing.assert_array_equal(positions(sizes, 2, 8)[0, :3], positions(sizes[:3], 2, 8)[0])
