"""HDBSCAN and its majority form against scikit-learn's and against a plain top-down one."""

import functools

import jax
import numpy as np
import pytest

from metasg_jax.aggregators.clustering import (
    cosine_distances,
    hdbscan,
    majority_cluster,
    minimax_paths,
)
from tests.aggregators import oracles
from tests.aggregators.oracles import flame_cluster, sklearn_hdbscan

SIZES = [2, 5, 10, 30]
cosines = jax.jit(cosine_distances)
cluster_of = jax.jit(hdbscan)
majority = jax.jit(majority_cluster)


def distances_of(n, seed):
    """Some groups of random number, size and spread."""
    rng = np.random.default_rng(seed)
    centres = 4 * rng.random() * rng.normal(size=(rng.integers(1, 5), 3))
    rows = rng.random() * rng.normal(size=(n, 3)) + centres[rng.integers(0, len(centres), n)]
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=2).astype(np.float32)
    return np.maximum(distances, distances.T)


def settings_of(n, seed):
    """(min_cluster_size, min_samples, allow_single_cluster)."""
    rng = np.random.default_rng(1000 + seed)
    return int(rng.integers(2, 6)), int(rng.integers(1, min(n, 5) + 1)), bool(rng.integers(2))


@jax.jit
def clustered(distances, present, sizes, samples, single):
    """One compilation a size: the settings are traced."""
    return jax.vmap(hdbscan)(distances, present, sizes, samples, single)


def labels_of(distances, settings, present=None):
    distances = np.stack(distances)
    present = np.ones(distances.shape[:2], bool) if present is None else present
    return np.asarray(clustered(distances, present, *map(np.array, zip(*settings, strict=True))))


def stable_labels(distances, settings, seed):
    """Scikit-learn's, or None where another order of the rows gives another partition."""
    labels, rng = sklearn_hdbscan(distances, *settings), np.random.default_rng(seed)
    for _ in range(20):
        order = rng.permutation(len(labels))
        shuffled = sklearn_hdbscan(distances[np.ix_(order, order)], *settings)
        back = np.empty_like(labels)
        back[order] = np.where(shuffled < 0, -1, order[shuffled])
        if (oracles.by_first_row(back) != labels).any():
            return None
    return labels


@pytest.mark.parametrize("n", SIZES)
def test_it_is_scikit_learns_where_nothing_is_tied(n):
    distances = [distances_of(n, seed) for seed in range(60)]
    # from min_samples = 3 on, mutual reachability is tied even if distances are not
    settings = [(m, min(s, 2), single) for m, s, single in (settings_of(n, i) for i in range(60))]
    labels = labels_of(distances, settings)
    for i in range(60):
        want = sklearn_hdbscan(distances[i], *settings[i])
        np.testing.assert_array_equal(labels[i], want, err_msg=str((i, settings[i])))
    assert n < 10 or len({len(set(row)) for row in labels}) > 3


@pytest.mark.parametrize("n", SIZES)
def test_ties_join_at_once(n):
    """Whole distances, many of them 0, and core distances that are those to several rows."""
    rng, distances = np.random.default_rng(n), []
    for seed in range(60):
        whole = np.round(distances_of(n, seed) * rng.choice([0.5, 1.0, 3.0]))
        distances.append(whole if seed % 2 else distances_of(n, seed))
    settings = [settings_of(n, seed) for seed in range(60)]
    labels, compared = labels_of(distances, settings), 0
    for i in range(60):
        np.testing.assert_array_equal(labels[i], oracles.hdbscan(distances[i], *settings[i]))
        stable = stable_labels(distances[i], settings[i], i) if n <= 10 else None
        if stable is not None:
            np.testing.assert_array_equal(labels[i], stable)
            compared += 1
    assert n > 10 or compared > 30
    order = rng.permutation(n)
    shuffled = labels_of([d[np.ix_(order, order)] for d in distances], settings)
    back = np.empty_like(labels)
    back[:, order] = np.where(shuffled < 0, -1, order[shuffled])
    np.testing.assert_array_equal([oracles.by_first_row(row) for row in back], labels)


def test_absent_rows_are_in_no_cluster_and_touch_nobody():
    n, rng = 10, np.random.default_rng(0)
    full = [distances_of(n, seed) for seed in range(60)]
    present = rng.random((60, n)) > 0.3
    present[0], present[1] = False, np.arange(n) == 4
    settings = [settings_of(n, seed) for seed in range(60)]
    both = present[:, :, None] & present[:, None]
    poisoned = np.where(both, np.stack(full), np.nan)
    labels = labels_of(poisoned, settings, present)
    assert (labels[:2] == -1).all()
    for i in range(2, 60):
        rows = np.flatnonzero(present[i])
        want = oracles.hdbscan(full[i][np.ix_(rows, rows)], *settings[i])
        np.testing.assert_array_equal(labels[i][rows], np.where(want < 0, -1, rows[want]))
        assert (labels[i][~present[i]] == -1).all()


def test_two_pairs_and_a_stray_row():
    """By hand: at 1 and 2 the pairs {0, 1} and {2, 3} join, at 10 both, at 30 the row 4.

    The pairs begin at 1 / 10, so their masses are 2 (1 - 0.1) = 1.8 and 2 (0.5 - 0.1) = 0.8; that
    of the root is 5 / 30 for all rows, and four of them go on to 1 / 10: 1 / 30 + 4 / 10 = 0.43.
    """
    x = np.array([0.0, 1.0, 11.0, 13.0, 43.0], np.float32)
    cluster = functools.partial(cluster_of, np.abs(x[:, None] - x[None]), np.ones(5, bool))
    assert cluster(2, 1, False).tolist() == [0, 0, 2, 2, -1]
    assert cluster(2, 1, True).tolist() == [0, 0, 2, 2, -1]
    # no two clusters of three: only the root is left, without the row that left it first
    assert cluster(3, 1, False).tolist() == [-1] * 5
    assert cluster(3, 1, True).tolist() == [0, 0, 0, 0, -1]


def test_equal_rows_are_infinitely_dense():
    """Three equal rows, two equal rows and one other, at 1 from each other."""
    group, cluster = np.array([0, 0, 0, 1, 1, 2]), cluster_of
    distances = np.float32(group[:, None] != group[None])
    for single in (False, True):
        assert cluster(distances, group < 3, 2, 2, single).tolist() == [0, 0, 0, 3, 3, -1]
    assert cluster(distances, group == 0, 2, 2, True).tolist() == [0, 0, 0, -1, -1, -1]


def test_minimax_paths_are_an_ultrametric():
    paths = np.asarray(jax.jit(minimax_paths)(distances_of(40, 0), np.ones(40, bool)))
    assert (paths[:, None] <= np.maximum(paths[:, :, None], paths[None]).transpose(0, 2, 1)).all()
    assert (paths <= distances_of(40, 0)).all()


@pytest.mark.parametrize("n", [2, 3, 5, 10, 11, 40, 100])
def test_the_majority_cluster_is_that_of_hdbscan(n):
    """Two groups of random sizes and spreads, up to half of the rows turned round."""
    sizes = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(n, 5)) + 4 * rng.random() * rng.normal(size=5)
        rows[: rng.integers(0, n // 2 + 1)] *= -1
        rows = rows.astype(np.float32)
        distances = np.asarray(cosines(rows, np.linalg.norm(rows, axis=1)))
        got = majority(distances, np.ones(n, bool))
        np.testing.assert_array_equal(got, flame_cluster(np.float64(distances)))
        assert got.sum() > n / 2
        sizes.add(int(got.sum()))
    assert n < 10 or len(sizes) > 1


def test_the_majority_cluster_is_of_the_rows_that_are_present():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 5)).astype(np.float32)
    distances = np.array(cosines(rows, np.linalg.norm(rows, axis=1)))
    present = np.arange(12) % 3 > 0
    want = flame_cluster(np.float64(distances[np.ix_(present, present)]))
    distances[~present] = np.nan
    got = np.asarray(majority(distances, present))
    np.testing.assert_array_equal(got[present], want)
    assert not got[~present].any()
