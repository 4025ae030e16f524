"""The cache of arrays: whatever happens to its files, wrong data never come out of it."""

import json
import shutil

import numpy as np
import pytest

from metasg_jax.data import cache
from metasg_jax.data.content import digest
from metasg_jax.data.dataset import Dataset
from metasg_jax.errors import DataError


def tiny(name="mnist", seed=0) -> Dataset:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (50, 4, 4, 1), dtype=np.uint8)
    y = rng.integers(0, 10, 50).astype(np.int32)
    return Dataset(name, x, y, x[:7], y[:7], 10)


def noticed(name, folder, **kwargs) -> str:
    dataset, reason = cache.read(name, folder, **kwargs)
    assert dataset is None
    assert reason
    return reason


@pytest.fixture
def folder(tmp_path):
    cache.write(tiny(), tmp_path, "a test")
    return tmp_path


def test_comes_back_as_written(folder):
    dataset, reason = cache.read("mnist", folder)
    assert not reason
    assert dataset.name == "mnist"
    assert dataset.num_classes == 10
    assert digest(dataset) == digest(tiny())
    assert sorted(p.name for p in folder.iterdir()) == ["mnist.json", "mnist.npz"]
    assert json.loads((folder / "mnist.json").read_text())["source"] == "a test"


def test_nothing_cached_is_not_damage(tmp_path):
    assert cache.read("mnist", tmp_path) == (None, "")
    assert cache.read("mnist", tmp_path / "missing") == (None, "")


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
@pytest.mark.parametrize("file", ["mnist.npz", "mnist.json"])
def test_notices_truncation(folder, file, keep):
    content = (folder / file).read_bytes()
    keep = int(keep * len(content)) if isinstance(keep, float) else keep
    (folder / file).write_bytes(content[:keep])
    noticed("mnist", folder)


def test_notices_any_flipped_byte_of_the_arrays(folder):
    clean = (folder / "mnist.npz").read_bytes()
    for position in range(0, len(clean), 7):
        damaged = bytearray(clean)
        damaged[position] ^= 0x40
        (folder / "mnist.npz").write_bytes(bytes(damaged))
        dataset, reason = cache.read("mnist", folder)
        # Some bytes of a zip archive mean nothing, such as its dates.
        assert reason or digest(dataset) == digest(tiny())


@pytest.mark.parametrize("file", ["mnist.npz", "mnist.json"])
def test_notices_a_missing_file(folder, file):
    (folder / file).unlink()
    assert noticed("mnist", folder) == f"{file} is missing"


@pytest.mark.parametrize("file", ["mnist.npz", "mnist.json"])
def test_notices_a_directory_in_place_of_a_file(folder, file):
    (folder / file).unlink()
    (folder / file).mkdir()
    noticed("mnist", folder)


def test_notices_swapped_names(folder):
    cache.write(tiny("fashion_mnist", seed=1), folder, "a test")
    for ending in ("npz", "json"):
        shutil.move(folder / f"fashion_mnist.{ending}", folder / f"mnist.{ending}")
    assert "describes fashion_mnist, not mnist" in noticed("mnist", folder)


def test_notices_arrays_of_another_set(folder):
    cache.write(tiny("fashion_mnist", seed=1), folder, "a test")
    shutil.move(folder / "fashion_mnist.npz", folder / "mnist.npz")
    assert "checksum" in noticed("mnist", folder)


def test_notices_contents_that_were_never_published(folder):
    assert "other contents" in noticed("mnist", folder, sha256="0" * 64)


@pytest.mark.parametrize(
    "sidecar", ["null", "[]", "{}", "{", '{"version": 0}', '{"version": 1, "name": "mnist"}']
)
def test_notices_a_sidecar_of_another_make(folder, sidecar):
    (folder / "mnist.json").write_text(sidecar)
    noticed("mnist", folder)


def test_never_unpickles(folder):
    np.savez(folder / "mnist.npz", train_x=np.array([{}], object))
    noticed("mnist", folder)


@pytest.mark.parametrize("full_at", ["npz", "json"])
def test_full_disk_leaves_what_was_there(folder, monkeypatch, full_at):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if full_at == "npz":
        monkeypatch.setattr(np, "savez", full)
    else:
        monkeypatch.setattr(cache.os, "fsync", full)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(DataError, match=r"cache_dir .* No space left on device"):
        cache.write(tiny(seed=1), folder, "a test")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_stopped_between_the_two_files_is_noticed(folder, monkeypatch):
    real, calls = cache.os.replace, []

    def stop_second(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(cache.os, "replace", stop_second)
    with pytest.raises(KeyboardInterrupt):
        cache.write(tiny(seed=1), folder, "a test")
    assert "checksum" in noticed("mnist", folder)
    assert sorted(p.name for p in folder.iterdir()) == ["mnist.json", "mnist.npz"]


def test_a_file_in_place_of_the_directory_is_one_sentence(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match=r"cache_dir .*taken can't be written to"):
        cache.write(tiny(), tmp_path / "taken", "a test")


def test_directory_prefers_the_argument(monkeypatch, tmp_path):
    monkeypatch.setenv("METASG_CACHE_DIR", str(tmp_path / "environment"))
    assert cache.directory(tmp_path) == tmp_path
    assert cache.directory() == tmp_path / "environment"
    monkeypatch.delenv("METASG_CACHE_DIR")
    assert cache.directory().parts[-2:] == (".cache", "metasg_jax")


@pytest.mark.parametrize("number", ["3", "-1", "1e99", "null", '"ten"'])
def test_the_number_of_classes_is_that_of_the_set_whatever_the_sidecar_says(folder, number):
    path = folder / "mnist.json"
    path.write_text(path.read_text().replace('"num_classes": 10', f'"num_classes": {number}'))
    dataset, _ = cache.read("mnist", folder)
    assert dataset.num_classes == 10


def test_an_archive_that_unpacks_to_more_than_the_file_is_not_read(folder, monkeypatch):
    zeros = np.zeros((2000, 40, 40, 1), np.uint8)
    np.savez_compressed(folder / "mnist.npz", **dict.fromkeys(cache.ARRAYS, zeros))
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda *args: pytest.fail("read"))
    assert "claims to hold 12,8" in noticed("mnist", folder)


def test_a_user_without_a_home_has_a_directory_of_his_own(tmp_path, monkeypatch):
    monkeypatch.delenv("METASG_CACHE_DIR", raising=False)

    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache.Path, "expanduser", homeless)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = cache.directory()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    assert cache.directory() == folder
    folder.chmod(0o777)
    with pytest.raises(DataError, match=r"others can write to it; set METASG_CACHE_DIR"):
        cache.directory()
    with pytest.raises(DataError, match=r"cache_dir ~nobody/x"):
        cache.directory("~nobody/x")
