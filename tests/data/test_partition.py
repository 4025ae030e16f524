"""Partitions: properties that hold for each, and what the level does."""

import numpy as np
import pytest

from metasg_jax.data import PARTITIONS
from metasg_jax.errors import ConfigError

LEVELS = {"iid": [None], "q": [0.0, 0.1, 0.5, 1.0], "dirichlet": [1e-3, 0.1, 1e4], "shards": [1, 2]}
CASES = [(name, level) for name, levels in LEVELS.items() for level in levels]
LABELS = np.random.default_rng(7).integers(0, 10, 4000).astype(np.int32)


def rows(partition):
    return [index[:size] for index, size in zip(partition.index, partition.sizes, strict=True)]


def disjoint(partition) -> bool:
    used = np.concatenate(rows(partition))
    return len(used) == len(np.unique(used))


def covers(partition, labels) -> bool:
    return np.array_equal(np.sort(np.concatenate(rows(partition))), np.arange(len(labels)))


def every_client_has_an_image(partition) -> bool:
    return bool((partition.sizes >= 1).all())


def padded_with_own(partition) -> bool:
    return all(
        np.array_equal(index, np.resize(index[:size], len(index)))
        for index, size in zip(partition.index, partition.sizes, strict=True)
    )


def shares(partition, labels):
    """Share of each class in each client, [N, C]."""
    counts = np.stack([np.bincount(labels[row], minlength=10) for row in rows(partition)])
    return counts / counts.sum(1, keepdims=True)


def test_every_partition_is_tested():
    assert set(LEVELS) == set(PARTITIONS)


@pytest.mark.parametrize("num_clients", [1, 3, 10, 37, 100, 1000])
@pytest.mark.parametrize(("name", "level"), CASES)
def test_properties(name, level, num_clients):
    partition = PARTITIONS[name](np.random.default_rng(0), LABELS, num_clients, level)
    assert partition.index.dtype == partition.sizes.dtype == np.int32
    assert partition.index.shape == (num_clients, partition.sizes.max())
    assert disjoint(partition)
    assert covers(partition, LABELS)
    assert every_client_has_an_image(partition)
    assert padded_with_own(partition)


@pytest.mark.parametrize(("name", "level"), CASES)
def test_a_client_for_every_image(name, level):
    labels = LABELS[:50]
    if name == "shards":
        level = 1
    partition = PARTITIONS[name](np.random.default_rng(0), labels, 50, level)
    assert covers(partition, labels)
    assert every_client_has_an_image(partition)


@pytest.mark.parametrize(("name", "level"), CASES)
def test_the_seed_decides(name, level):
    one, two, other = (
        PARTITIONS[name](np.random.default_rng(seed), LABELS, 20, level) for seed in (0, 0, 1)
    )
    assert np.array_equal(one.index, two.index)
    assert not np.array_equal(one.index, other.index)


@pytest.mark.parametrize(("name", "level"), CASES)
def test_order_within_a_client_is_random(name, level):
    partition = PARTITIONS[name](np.random.default_rng(0), LABELS, 5, level)
    longest = max(rows(partition), key=len)
    ascending = np.mean(np.diff(longest) > 0)
    by_class = np.mean(np.diff(LABELS[longest]) >= 0)
    assert 0.4 < ascending < 0.6
    assert by_class < 0.9 or len(np.unique(LABELS[longest])) == 1


def test_iid_sizes_differ_by_one():
    sizes = PARTITIONS["iid"](np.random.default_rng(0), LABELS, 37).sizes
    assert sizes.max() - sizes.min() <= 1


def test_q_of_one_over_classes_is_close_to_iid():
    partition = PARTITIONS["q"](np.random.default_rng(0), LABELS, 10, 0.1)
    # 400 images a client: five standard deviations of a share of 0.1 are 0.075.
    assert np.abs(shares(partition, LABELS) - np.bincount(LABELS) / len(LABELS)).max() < 0.075


@pytest.mark.parametrize("num_clients", [10, 30, 37])
def test_q_of_one_gives_a_client_one_class(num_clients):
    partition = PARTITIONS["q"](np.random.default_rng(0), LABELS, num_clients, 1.0)
    share = shares(partition, LABELS)
    assert (share.max(1) == 1).all()
    groups = np.bincount(share.argmax(1), minlength=10)
    assert groups.max() - groups.min() <= 1


def test_q_is_the_share_that_stays_in_the_group():
    partition = PARTITIONS["q"](np.random.default_rng(0), LABELS, 10, 0.5)
    share = np.sort(shares(partition, LABELS), axis=1)
    assert np.abs(share[:, -1] - 0.5).max() < 0.1
    assert np.abs(share[:, :-1] - 0.5 / 9).max() < 0.06


def test_q_of_zero_keeps_the_class_out_of_its_group():
    partition = PARTITIONS["q"](np.random.default_rng(0), LABELS, 10, 0.0)
    assert np.array_equal((shares(partition, LABELS) == 0).sum(1), np.ones(10))


def test_q_groups_are_drawn_at_random():
    # Malicious clients may be the first ones: these must not be one class group.
    first = [
        shares(PARTITIONS["q"](np.random.default_rng(s), LABELS, 20, 1.0), LABELS).argmax(1)[:2]
        for s in range(5)
    ]
    assert any(a != b for a, b in first)


def test_q_with_fewer_clients_than_classes():
    partition = PARTITIONS["q"](np.random.default_rng(0), LABELS, 3, 1.0)
    classes = [set(LABELS[row]) for row in rows(partition)]
    assert sorted(map(len, classes)) == [3, 3, 4]
    assert set.union(*classes) == set(range(10))


def test_one_class_only():
    for name, level in CASES:
        labels = np.zeros(40, np.int32)
        assert covers(PARTITIONS[name](np.random.default_rng(0), labels, 5, level), labels)


def test_dirichlet_level_is_homogeneity():
    skew = [
        shares(PARTITIONS["dirichlet"](np.random.default_rng(0), LABELS, 10, a), LABELS).max(1)
        for a in (0.05, 1.0, 1000.0)
    ]
    assert skew[0].mean() > skew[1].mean() > skew[2].mean()
    assert skew[2].max() < 0.2


def test_shards_bound_the_classes_of_a_client():
    labels = np.repeat(np.arange(10), 100).astype(np.int32)
    partition = PARTITIONS["shards"](np.random.default_rng(0), labels, 50, 2)
    assert all(len(np.unique(labels[row])) <= 2 for row in rows(partition))
    assert (partition.sizes == 20).all()


@pytest.mark.parametrize(
    ("name", "level", "said"),
    [
        ("q", -0.1, r"q must be in \[0, 1\]"),
        ("q", 1.1, r"q must be in \[0, 1\]"),
        ("q", float("nan"), r"q must be in \[0, 1\]"),
        ("dirichlet", 0.0, "alpha must be positive"),
        ("dirichlet", float("inf"), "alpha must be positive"),
        ("dirichlet", float("nan"), "alpha must be positive"),
        ("shards", 0, r"shards_per_client must be an integer in 1\.\.400"),
        ("shards", 1.5, "shards_per_client must be an integer"),
        ("shards", 401, "shards_per_client must be an integer"),
        ("shards", float("nan"), "shards_per_client must be an integer"),
    ],
)
def test_levels_out_of_range(name, level, said):
    with pytest.raises(ConfigError, match=said):
        PARTITIONS[name](np.random.default_rng(0), LABELS, 10, level)


@pytest.mark.parametrize("num_clients", [0, -1, 4001])
@pytest.mark.parametrize("name", LEVELS)
def test_clients_out_of_range(name, num_clients):
    with pytest.raises(ConfigError, match=r"num_clients must be in 1\.\.4000"):
        PARTITIONS[name](np.random.default_rng(0), LABELS, num_clients, LEVELS[name][0])
