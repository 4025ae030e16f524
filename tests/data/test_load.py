"""``load``: which source is used when, and what the user is told."""

import dataclasses

import numpy as np
import pytest

from metasg_jax.data import DATASETS, SOURCES, cache, load, mirror, prepare, prepared
from metasg_jax.data.content import canonical, digest
from metasg_jax.data.dataset import Dataset
from metasg_jax.errors import ConfigError, DataError


def tiny() -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (50, 4, 4, 1), dtype=np.uint8)
    y = rng.integers(0, 10, 50).astype(np.int32)
    return Dataset("mnist", x[:40], y[:40], x[40:], y[40:], 10)


PUBLISHED = digest(canonical(tiny()))


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A machine where mnist is tiny, every source works, and calls to sources are kept."""
    description = dataclasses.replace(
        DATASETS["mnist"], image_shape=(4, 4, 1), num_train=40, num_test=10, sha256=PUBLISHED
    )
    monkeypatch.setitem(DATASETS, "mnist", description)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("METASG_CACHE_DIR", str(tmp_path / "cache"))
    calls = []

    def read(name, data_dir, *, field="data_dir", progress=True):
        own = tmp_path / "cache" / "tfds"
        if data_dir == own and not own.exists():
            raise DataError("not there")
        calls.append(field if field != "the TFDS directory" else "prepared")
        return tiny()

    def build(name, data_dir, say):
        calls.append("prepare")
        data_dir.mkdir(parents=True)

    def fetch(name, *, progress=True):
        calls.append("mirror")
        return tiny()

    monkeypatch.setattr(prepared, "read", read)
    monkeypatch.setattr(prepare, "prepare", build)
    monkeypatch.setattr(mirror, "fetch", fetch)
    return calls


def right(dataset) -> bool:
    return dataset.name == "mnist" and digest(dataset) == PUBLISHED


def test_unknown_names():
    with pytest.raises(KeyError, match="did you mean 'mnist'"):
        load("mnst")
    with pytest.raises(ValueError, match="unknown source 'miror': use one of auto, tfds, mirror"):
        load("mnist", source="miror")


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_arrays(world, source):
    assert right(load("mnist", source=source, say=None))


def test_auto_prepares_then_uses_the_cache(world):
    load("mnist", say=None)
    assert world == ["prepare", "prepared"]
    assert right(load("mnist", say=pytest.fail))
    assert right(load("mnist", source="mirror", say=pytest.fail))
    assert world == ["prepare", "prepared"]


def test_a_prepared_directory_of_our_own_is_not_prepared_again(world, tmp_path):
    (tmp_path / "cache/tfds").mkdir(parents=True)
    load("mnist", say=None)
    assert world == ["data_dir"]


def test_data_dir_wins_over_the_cache(world, tmp_path):
    load("mnist", source="mirror", say=None)
    load("mnist", data_dir=tmp_path, say=None)
    assert world == ["mirror", "data_dir"]


def test_the_cache_wins_over_the_environment(world, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    load("mnist", say=None)
    load("mnist", say=None)
    assert world == ["TFDS_DATA_DIR"]
    load("mnist", source="tfds", say=None)
    assert world == ["TFDS_DATA_DIR", "TFDS_DATA_DIR"]


def test_mirror_does_not_read_data_dir(world, tmp_path):
    with pytest.raises(ConfigError, match="data_dir is read by"):
        load("mnist", source="mirror", data_dir=tmp_path)


def test_a_damaged_cache_is_reported_and_made_again(world, tmp_path):
    load("mnist", source="mirror", say=None)
    path = tmp_path / "cache/mnist.npz"
    path.write_bytes(path.read_bytes()[:-100])
    said = []
    assert right(load("mnist", source="mirror", say=said.append))
    assert world == ["mirror", "mirror"]
    assert "is not usable" in said[0]
    assert right(load("mnist", say=pytest.fail))


def test_other_contents_are_refused_and_not_cached(world, monkeypatch, tmp_path):
    changed = tiny()
    changed.train_x[3, 0, 0, 0] ^= 1
    monkeypatch.setattr(mirror, "fetch", lambda name, *, progress: changed)
    with pytest.raises(DataError, match="mnist from the mirror has other contents"):
        load("mnist", source="mirror", say=None)
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_costs_the_cache_not_the_run(world, monkeypatch):
    def full(*args, **kwargs):
        raise DataError("cache_dir is full")

    monkeypatch.setattr(cache, "write", full)
    said = []
    assert right(load("mnist", source="mirror", say=said.append))
    assert "not cached: cache_dir is full" in said[0]


def test_auto_names_the_mirror_when_nothing_can_be_reached(monkeypatch, tmp_path):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(prepare, "answers", lambda url: False)
    with pytest.raises(DataError, match="mnist, can't be reached from here: use SOURCE=mirror"):
        load("mnist", cache_dir=tmp_path, say=pytest.fail)


def test_a_bad_environment_is_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"^TFDS_DATA_DIR .*empty is empty"):
        load("mnist", cache_dir=tmp_path / "cache", say=pytest.fail)


def test_digits_need_nothing(monkeypatch, tmp_path):
    for source in SOURCES:
        assert load("digits", source=source, cache_dir=tmp_path, say=pytest.fail).num_classes == 10
    assert not list(tmp_path.iterdir())
