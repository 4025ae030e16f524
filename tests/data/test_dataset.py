"""Data sets in memory: pooling, canonical order, digits, descriptions."""

import dataclasses

import numpy as np
import pytest

from metasg_jax.data import DATASETS, load, pool
from metasg_jax.data.catalog import check
from metasg_jax.data.content import canonical, digest
from metasg_jax.data.dataset import Dataset
from metasg_jax.errors import ConfigError, DataError


def tiny(name="mnist", num_train=12, num_test=6, side=4, channels=1, seed=0) -> Dataset:
    rng = np.random.default_rng(seed)

    def images(count):
        return rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8)

    def labels(count):
        return rng.integers(0, 10, count).astype(np.int32)

    return Dataset(
        name, images(num_train), labels(num_train), images(num_test), labels(num_test), 10
    )


def examples(x, y):
    return sorted((image.tobytes(), int(label)) for image, label in zip(x, y, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_pool_is_the_rounded_mean_of_each_block(factor, channels):
    before = tiny(channels=channels)
    after = pool(before, factor)
    side = 4 // factor
    assert after.train_x.shape == (12, side, side, channels)
    assert after.train_x.dtype == np.uint8
    for i in range(side):
        for j in range(side):
            block = before.train_x[
                :, i * factor : (i + 1) * factor, j * factor : (j + 1) * factor
            ].astype(float)
            expected = np.floor(block.mean((1, 2)) + 0.5)
            np.testing.assert_array_equal(after.train_x[:, i, j], expected)


def test_pool_keeps_white_white():
    white = dataclasses.replace(tiny(), train_x=np.full((3, 4, 4, 1), 255, np.uint8))
    assert (pool(white, 4).train_x == 255).all()


@pytest.mark.parametrize("factor", [0, -1, 3, 8, 2.0, True])
def test_pool_names_the_field(factor):
    with pytest.raises(ConfigError, match="pool must"):
        pool(tiny(), factor)


def test_pool_lists_what_divides():
    with pytest.raises(ConfigError, match=r"use one of 1, 2, 4$"):
        pool(tiny(), 3)


def test_canonical_order_does_not_depend_on_the_order_read():
    one = tiny()
    order = np.random.default_rng(1).permutation(12)
    other = dataclasses.replace(one, train_x=one.train_x[order], train_y=one.train_y[order])
    assert digest(one) != digest(other)
    assert digest(canonical(one)) == digest(canonical(other))
    assert examples(canonical(one).train_x, canonical(one).train_y) == examples(
        one.train_x, one.train_y
    )


def test_canonical_order_sees_the_label():
    one = tiny()
    other = dataclasses.replace(one, train_y=(one.train_y + 1) % 10)
    assert digest(canonical(one)) != digest(canonical(other))


@pytest.mark.parametrize("field", ["train_x", "train_y", "test_x", "test_y"])
def test_digest_sees_every_array(field):
    one = tiny()
    changed = getattr(one, field).copy()
    changed.reshape(-1)[3] ^= 1
    assert digest(one) != digest(dataclasses.replace(one, **{field: changed}))


def test_digits_are_complete_and_always_the_same():
    one, two = (load("digits", say=None) for _ in range(2))
    check(one, "here")
    assert one.train_x.shape == (1437, 8, 8, 1)
    assert one.test_x.shape == (360, 8, 8, 1)
    assert one.train_x.max() == 255
    assert digest(one) == digest(two)
    # Pinned: runs are compared across versions.
    assert digest(one).startswith(DIGITS)
    assert set(one.train_y) == set(one.test_y) == set(range(10))


DIGITS = "68ce8bcc33f4bcf0"


@pytest.mark.parametrize(
    "change",
    [
        {"train_x": np.zeros((3, 4, 4, 1), np.uint8)},
        {"train_x": np.zeros((12, 4, 4, 3), np.uint8)},
        {"test_x": np.zeros((6, 4, 4, 1), np.float32)},
        {"test_y": np.zeros(5, np.int32)},
        {"test_y": np.zeros(6, np.int64)},
        {"train_y": np.full(12, 10, np.int32)},
        {"train_y": np.full(12, -1, np.int32)},
    ],
)
def test_check_notices(change, monkeypatch):
    expected = dataclasses.replace(
        DATASETS["mnist"], image_shape=(4, 4, 1), num_train=12, num_test=6, sha256=""
    )
    monkeypatch.setitem(DATASETS, "mnist", expected)
    check(tiny(), "here")
    with pytest.raises(DataError, match=r"mnist from here: the (train|test) split must"):
        check(dataclasses.replace(tiny(), **change), "here")


def test_check_notices_other_contents(monkeypatch):
    expected = dataclasses.replace(
        DATASETS["mnist"], image_shape=(4, 4, 1), num_train=12, num_test=6, sha256=digest(tiny())
    )
    monkeypatch.setitem(DATASETS, "mnist", expected)
    check(tiny(), "here")
    with pytest.raises(DataError, match="mnist from here has other contents"):
        check(tiny(seed=1), "here")
