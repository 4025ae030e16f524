"""A part of a data set in a folder, and what is wrong with one."""

import numpy as np
import pytest

from metasg_jax.cli import main
from metasg_jax.data import Dataset, digest, load
from metasg_jax.data.packed import pack
from metasg_jax.errors import ConfigError, DataError


@pytest.fixture
def whole():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    y = rng.integers(0, 10, 60).astype(np.int32)
    return Dataset("cifar10", x[:50], y[:50], x[50:], y[50:], 10)


def test_the_first_images_come_back_in_proportion(whole, tmp_path):
    path = pack(whole, tmp_path / "new" / "part", 30)
    said = []
    part = load("cifar10", data_dir=path.parent, say=said.append)
    assert (len(part.train_y), len(part.test_y)) == (25, 5)
    np.testing.assert_array_equal(part.train_x, whole.train_x[:25])
    np.testing.assert_array_equal(part.test_y, whole.test_y[:5])
    assert said == [f"cifar10: 25 train and 5 test images, packed in {path.parent}"]


def test_each_split_keeps_an_image_and_all_may_be_packed(whole, tmp_path):
    for images, counts in ((2, (1, 1)), (60, (50, 10))):
        part = load("cifar10", data_dir=pack(whole, tmp_path, images).parent)
        assert (len(part.train_y), len(part.test_y)) == counts
    assert digest(part) == digest(whole)


@pytest.mark.parametrize("images", [-1, 1, 61])
def test_a_number_out_of_range_is_refused(whole, tmp_path, images):
    with pytest.raises(ConfigError, match="images must be from 2 to 60"):
        pack(whole, tmp_path, images)
    assert list(tmp_path.iterdir()) == []


def test_damage_is_named_and_what_to_do(whole, tmp_path):
    path = pack(whole, tmp_path, 20)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"cifar10\.npz .*damaged.*metasg data --pack"):
        load("cifar10", data_dir=tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(DataError, match=r"cifar10\.json is missing"):
        load("cifar10", data_dir=tmp_path)


def test_the_command_packs(tmp_path, capsys):
    assert main(["data", "--dataset", "digits", "--pack", str(tmp_path), "--images", "100"]) == 0
    assert "packed 100 of them" in " ".join(capsys.readouterr().out.split())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["digits.json", "digits.npz"]
