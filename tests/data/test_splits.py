"""Splits: nothing is seen by two parties, and the root is balanced."""

import numpy as np
import pytest

from metasg_jax.data.dataset import Dataset
from metasg_jax.data.splits import split
from metasg_jax.errors import ConfigError


def dataset(labels=None) -> Dataset:
    y = np.random.default_rng(3).integers(0, 10, 1000) if labels is None else np.array(labels)
    x = np.zeros((len(y), 2, 2, 1), np.uint8)
    return Dataset("mnist", x, y.astype(np.int32), x[:100], y[:100].astype(np.int32), 10)


def disjoint_and_complete(splits, count) -> bool:
    used = np.concatenate([splits.root, splits.clients, splits.validation])
    return np.array_equal(np.sort(used), np.arange(count))


@pytest.mark.parametrize(
    ("num_root", "num_validation"), [(100, 200), (0, 0), (0, 10), (7, 0), (999, 0), (600, 399)]
)
def test_disjoint_and_complete(num_root, num_validation):
    splits = split(np.random.default_rng(0), dataset(), num_root, num_validation)
    assert (len(splits.root), len(splits.validation)) == (num_root, num_validation)
    assert disjoint_and_complete(splits, 1000)
    assert {a.dtype for a in (splits.root, splits.clients, splits.validation, splits.test)} == {
        np.dtype(np.int32)
    }


@pytest.mark.parametrize("num_root", [1, 9, 10, 57, 100, 200])
def test_root_is_balanced(num_root):
    data = dataset()
    counts = np.bincount(
        data.train_y[split(np.random.default_rng(0), data, num_root, 10).root], minlength=10
    )
    assert counts.max() - counts.min() <= 1


def test_a_rare_class_is_used_up():
    data = dataset([0] * 90 + [1] * 5 + [2] * 90)
    counts = np.bincount(data.train_y[split(np.random.default_rng(0), data, 45, 0).root])
    assert counts.tolist() == [20, 5, 20]


def test_who_gets_the_remainder_is_drawn():
    data = dataset()
    first = {
        int(data.train_y[split(np.random.default_rng(s), data, 1, 0).root[0]]) for s in range(9)
    }
    assert len(first) > 1


def test_root_is_not_sorted_by_class():
    data = dataset()
    labels = data.train_y[split(np.random.default_rng(0), data, 200, 0).root]
    assert np.mean(np.diff(labels) >= 0) < 0.7


def test_the_seed_decides():
    one, two, other = (split(np.random.default_rng(s), dataset(), 50, 50, 20) for s in (0, 0, 1))
    for field in ("root", "clients", "validation", "test"):
        assert np.array_equal(getattr(one, field), getattr(two, field))
        assert not np.array_equal(getattr(one, field), getattr(other, field))


def test_test_images():
    every = split(np.random.default_rng(0), dataset(), 10, 10).test
    assert np.array_equal(every, np.arange(100))
    some = split(np.random.default_rng(0), dataset(), 10, 10, 30).test
    assert len(np.unique(some)) == 30
    assert some.max() < 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((-1, 0), "at least 0"),
        ((0, -1), "at least 0"),
        ((600, 400), r"num_root \+ num_validation must be below 1000"),
        ((10, 10, 0), r"num_test must be in 1\.\.100"),
        ((10, 10, 101), r"num_test must be in 1\.\.100"),
    ],
)
def test_out_of_range(arguments, said):
    with pytest.raises(ConfigError, match=said):
        split(np.random.default_rng(0), dataset(), *arguments)


@pytest.mark.parametrize(("share", "of_it"), [(0.0, 0), (0.5, 30), (1.0, 60)])
def test_a_biased_root_has_its_share_of_one_class(share, of_it):
    data, classes = dataset(), set()
    for seed in range(4):
        splits = split(np.random.default_rng(seed), data, 60, 200, root_class_share=share)
        assert disjoint_and_complete(splits, 1000)
        counts = np.bincount(data.train_y[splits.root], minlength=10)
        focus = int(counts.argmax() if share else counts.argmin())
        rest = np.delete(counts, focus)
        assert counts[focus] == of_it and rest.max() - rest.min() <= 1
        classes.add(focus)
    assert len(classes) > 1, "the class is drawn"
