"""Data sets as plain arrays on disk: `<name>.npz` and, beside it, `<name>.json` with its hash."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from metasg_jax.data.catalog import DATASETS
from metasg_jax.data.content import digest
from metasg_jax.data.dataset import Dataset
from metasg_jax.errors import DataError

VERSION = 1
ARRAYS = ("train_x", "train_y", "test_x", "test_y")


def directory(cache_dir: str | os.PathLike | None = None) -> Path:
    """``cache_dir``, else the environment's METASG_CACHE_DIR, else ~/.cache/metasg_jax.

    A user without a home has a directory of his own beside other temporary files instead.

    Raises:
        DataError: where a home is named that does not exist, or that directory is another user's.
    """
    chosen = cache_dir or os.environ.get("METASG_CACHE_DIR")
    try:
        return Path(chosen or "~/.cache/metasg_jax").expanduser()
    except RuntimeError as error:
        if chosen:
            raise DataError(f"cache_dir {chosen}: {error}") from None
    return _homeless()


def _homeless() -> Path:
    """Made for its owner alone: what others could write there would be run (compiled programs)."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"metasg_jax-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise DataError(f"cache_dir {folder}: {error.strerror}; set METASG_CACHE_DIR") from None
    if hasattr(os, "getuid") and (found.st_uid != user or found.st_mode & 0o022):
        raise DataError(f"cache_dir {folder}: others can write to it; set METASG_CACHE_DIR")
    return folder


def read(name: str, cache_dir: Path, sha256: str = "") -> tuple[Dataset | None, str]:
    """Reads a cached data set and verifies it.

    Args:
        name: The data set.
        cache_dir: The directory that ``write`` wrote to.
        sha256: What the contents must hash to; empty accepts what the sidecar says.

    Returns:
        The data set and "", or None and the reason: "" when nothing is cached, otherwise a clause
        that says what is wrong with the cache.
    """
    arrays_path, sidecar_path = _paths(name, cache_dir)
    # lexists: a broken link is damage, not an empty cache.
    if not os.path.lexists(arrays_path) and not os.path.lexists(sidecar_path):
        return None, ""
    try:
        sidecar = json.loads(sidecar_path.read_text(encoding="utf-8"))
        if sidecar["version"] != VERSION:
            return None, f"{sidecar_path.name} has version {sidecar['version']}, not {VERSION}"
        if sidecar["name"] != name:
            return None, f"{sidecar_path.name} describes {sidecar['name']}, not {name}"
        if sha256 and sidecar["sha256"] != sha256:
            return None, f"{sidecar_path.name} describes other contents than the published set"
        # Opened here: NumPy leaves the file open when it is not an archive.
        with arrays_path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            # written without compression: contents that are larger than the file are none of ours
            claimed = sum(member.file_size for member in stored.zip.infolist())
            if claimed > arrays_path.stat().st_size:
                return None, f"{arrays_path.name} claims to hold {claimed:,} bytes"
            arrays = {key: stored[key] for key in ARRAYS}
        # known of the set itself: the sidecar's own number has no checksum
        dataset = Dataset(name=name, num_classes=DATASETS[name].num_classes, **arrays)
        if digest(dataset) != sidecar["sha256"]:
            return None, f"{arrays_path.name} does not match its checksum"
    except FileNotFoundError as error:
        return None, f"{Path(error.filename).name} is missing"
    except OSError as error:
        return None, f"{name}.npz or {name}.json can't be read ({error.strerror or error})"
    # Any kind: for damaged bytes json, zipfile and NumPy each raise a dozen of their own.
    except Exception as error:
        return None, f"{name}.npz or {name}.json is damaged ({type(error).__name__})"
    return dataset, ""


def write(dataset: Dataset, cache_dir: Path, source: str) -> Path:
    """Writes a data set so that a reader sees the old files or the new ones, never half.

    Args:
        dataset: The data set.
        cache_dir: Made if it is missing.
        source: Where the data came from, kept in the sidecar.

    Returns:
        The path of the arrays.

    Raises:
        DataError: The directory can't be written to, or the disk is full; no partial file is left.
    """
    arrays_path, sidecar_path = _paths(dataset.name, cache_dir)
    arrays = {key: getattr(dataset, key) for key in ARRAYS}
    sidecar = {
        "name": dataset.name,
        "source": source,
        "num_classes": dataset.num_classes,
        "shapes": {key: list(value.shape) for key, value in arrays.items()},
        "dtypes": {key: value.dtype.name for key, value in arrays.items()},
        "sha256": digest(dataset),
        "version": VERSION,
    }
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        # Stopped between the two, the old sidecar does not match the new arrays: noticed by read.
        _replace(arrays_path, lambda file: np.savez(file, **arrays))
        _replace(sidecar_path, lambda file: file.write(json.dumps(sidecar, indent=2).encode()))
    except OSError as error:
        raise DataError(f"cache_dir {cache_dir} can't be written to: {error.strerror}") from error
    return arrays_path


def _paths(name: str, cache_dir: Path) -> tuple[Path, Path]:
    return cache_dir / f"{name}.npz", cache_dir / f"{name}.json"


def _replace(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Fills a temporary file beside ``path``, then renames it: atomic within one file system."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
