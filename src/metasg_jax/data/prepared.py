"""Reads a directory that TFDS has prepared, without TensorFlow."""

import io
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from metasg_jax.data.catalog import DATASETS
from metasg_jax.data.dataset import Dataset
from metasg_jax.data.progress import bar
from metasg_jax.errors import DataError

# Records are read in bulk: one at a time costs several times as much.
CHUNK = 2000


def locate(name: str, data_dir: str | os.PathLike, field: str = "data_dir") -> Path:
    """Finds a prepared data set.

    Args:
        name: The data set.
        data_dir: The directory given to TFDS (it holds `<name>/<version>/dataset_info.json`), or
            one of the two below it.
        field: What the user calls ``data_dir``, for the message.

    Returns:
        The directory `<name>/<version>` of the newest version.

    Raises:
        DataError: The directory is missing, empty, unreadable, holds another data set, or holds
            this one in a file format that can't be read without TensorFlow.
    """
    try:
        root = Path(data_dir).expanduser()
    except RuntimeError as error:
        raise DataError(f"{field} {data_dir}: {error}") from None
    _require_readable(root, name, field)
    # A directory inside the one that TFDS was given is searched as well.
    infos = [path for depth in ("", "*/", "*/*/") for path in sorted(root.glob(f"{depth}{_INFO}"))]
    held: dict[str, list[tuple[tuple[int, ...], Path, str]]] = {}
    for path in infos:
        found, version, file_format = _describe(path, field)
        held.setdefault(found, []).append((version, path.parent, file_format))
    if name not in held:
        if (root / name).exists():
            _require_readable(root / name, name, field)
        if not held:
            raise DataError(
                f"{field} {root} holds no data set prepared by TFDS: "
                f"give the directory in which TFDS prepared {name}"
            )
        raise DataError(
            f"{field} {root} holds {', '.join(sorted(held))}, not {name}: "
            f"give the directory in which TFDS prepared {name}"
        )
    versions = [entry for entry in held[name] if entry[2] == "array_record"]
    if not versions:
        raise DataError(
            f"{field} {root} holds {name} as {held[name][0][2]}, which TFDS can't read without "
            "TensorFlow: prepare it with file_format='array_record'"
        )
    return max(versions)[1]


def read(
    name: str, data_dir: str | os.PathLike, *, field: str = "data_dir", progress: bool = True
) -> Dataset:
    """Reads and decodes a prepared data set, in the order of TFDS.

    Args:
        name: The data set.
        data_dir: See ``locate``.
        field: What the user calls ``data_dir``, for the message.
        progress: Whether to show a bar on stderr.

    Returns:
        The data set: images uint8 [M, h, w, c], labels int32 [M].

    Raises:
        DataError: As ``locate``, or a file of the directory is damaged.
    """
    where = locate(name, data_dir, field)
    try:
        import tensorflow_datasets as tfds

        # Undecoded: Pillow on the bytes is faster than the decoder of TFDS.
        train, test = tfds.data_source(
            f"{name}:{where.name}",
            data_dir=where.parents[1],
            split=["train", "test"],
            download=False,
            decoders={"image": tfds.decode.SkipDecoding()},
        )
        with bar(f"decoding {name}", len(train) + len(test), progress) as advance:
            train_x, train_y = _decode(train, advance)
            test_x, test_y = _decode(test, advance)
    # Any kind: the record reader, protobuf and Pillow each raise their own.
    except Exception as error:
        first_line = next(iter(str(error).splitlines()), "")
        raise DataError(
            f"{field} {data_dir} holds {name}, but it can't be read "
            f"({type(error).__name__}: {first_line[:200]}): prepare it again"
        ) from error
    return Dataset(name, train_x, train_y, test_x, test_y, DATASETS[name].num_classes)


_INFO = "dataset_info.json"


def _require_readable(path: Path, name: str, field: str) -> None:
    try:
        entries = os.listdir(path)
    except FileNotFoundError as error:
        raise DataError(
            f"{field} {path} does not exist: give the directory in which TFDS prepared {name}"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{field} {path} can't be read: {reason}") from error
    if not entries:
        raise DataError(
            f"{field} {path} is empty: give the directory in which TFDS prepared {name}"
        )


def _describe(info: Path, field: str) -> tuple[str, tuple[int, ...], str]:
    """Name, version and file format in a dataset_info.json."""
    try:
        content = json.loads(info.read_text(encoding="utf-8"))
        version = tuple(int(part) for part in content["version"].split("."))
        # TFDS did not write the format before it had more than one.
        return content["name"], version, content.get("fileFormat", "tfrecord")
    except OSError as error:
        raise DataError(f"{field}: {info} can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{field}: {info} is damaged: prepare the data set again") from error


def _decode(records, advance) -> tuple[np.ndarray, np.ndarray]:
    """All images uint8 [M, h, w, c] and labels int32 [M] of one split."""
    images, labels = [], []
    for start in range(0, len(records), CHUNK):
        chunk = records.__getitems__(range(start, min(start + CHUNK, len(records))))
        images += [np.asarray(Image.open(io.BytesIO(record["image"]))) for record in chunk]
        labels += [record["label"] for record in chunk]
        advance(len(chunk))
    stacked = np.stack(images)
    if stacked.ndim == 3:  # Pillow drops the channel of grey images.
        stacked = stacked[..., None]
    return stacked, np.array(labels, np.int32)
