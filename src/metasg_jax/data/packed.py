"""A part of a data set as two files, to carry to a machine that has no network.

They are those of the cache, with fewer images: `<name>.npz` and, beside it, `<name>.json`.
"""

import dataclasses
import os
from pathlib import Path

from metasg_jax.data import cache
from metasg_jax.data.dataset import Dataset, require_arrays
from metasg_jax.errors import ConfigError, DataError


def pack(dataset: Dataset, folder: str | os.PathLike, images: int) -> Path:
    """Writes the first images of both splits, in the proportion of the whole set.

    Sets come in the order of a hash (:func:`metasg_jax.data.content.canonical`), so the first
    images are a sample drawn at random, and the same ones on each machine.

    Args:
        dataset: as :func:`metasg_jax.data.load` returns it.
        folder: for the two files; made where missing.
        images: how many in all, from two to all that there are.

    Returns:
        The path of the arrays: one byte a pixel, not compressed.

    Raises:
        ConfigError: for a number of images out of range.
        DataError: where the folder can't be written to.
    """
    train, test = len(dataset.train_y), len(dataset.test_y)
    if not 2 <= images <= train + test:
        raise ConfigError(f"images must be from 2 to {train + test:,}, got {images}")
    some_test = min(max(1, round(images * test / (train + test))), images - 1)
    some_train = images - some_test
    part = dataclasses.replace(
        dataset,
        train_x=dataset.train_x[:some_train],
        train_y=dataset.train_y[:some_train],
        test_x=dataset.test_x[:some_test],
        test_y=dataset.test_y[:some_test],
    )
    return cache.write(part, Path(folder).expanduser(), f"{images} of {train + test} images")


def holds(name: str, folder: str | os.PathLike) -> bool:
    """Whether somebody packed this data set into the folder."""
    try:
        return (Path(folder).expanduser() / f"{name}.npz").is_file()
    except (OSError, RuntimeError, ValueError):  # no home; a null character
        return False


def read(name: str, folder: str | os.PathLike) -> Dataset:
    """Reads what ``pack`` wrote.

    Raises:
        DataError: where a file is missing or damaged.
    """
    dataset, damage = cache.read(name, Path(folder).expanduser())
    if dataset is None:
        raise DataError(f"data_dir {folder}: {damage}: pack {name} again (metasg data --pack)")
    require_arrays(dataset, f"data_dir {folder}")
    return dataset
