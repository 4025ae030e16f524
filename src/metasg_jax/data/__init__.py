"""Data sets by name, from whichever source can be reached, cached as arrays."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from metasg_jax.data import cache, digits, mirror, packed, prepare, prepared
from metasg_jax.data.catalog import DATASETS, Description, check
from metasg_jax.data.content import canonical, digest
from metasg_jax.data.dataset import Dataset, pool, require_arrays
from metasg_jax.data.partition import PARTITIONS, Partition
from metasg_jax.data.splits import Splits, split
from metasg_jax.data.triggers import TRIGGERS
from metasg_jax.errors import ConfigError, DataError
from metasg_jax.registry import unknown_name

__all__ = [
    "DATASETS",
    "PARTITIONS",
    "SOURCES",
    "TRIGGERS",
    "Dataset",
    "Description",
    "Partition",
    "Splits",
    "digest",
    "load",
    "pool",
    "require_arrays",
    "split",
]

SOURCES = ("auto", "tfds", "mirror")

Say = Callable[[str], object]


def load(
    name: str,
    *,
    source: str = "auto",
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
    say: Say | None = print,
) -> Dataset:
    """Loads a data set: the same arrays, in the same order, whatever the source.

    Digits are embedded. The others are looked for in this order, and verified against the
    published contents:

    ======  ===========================  ====  ======  ======
    step    where                        auto  tfds    mirror
    ======  ===========================  ====  ======  ======
    1       ``data_dir``, if given       yes   yes     -
    2       the cache of arrays          yes   -       yes
    3       TFDS_DATA_DIR, if set        yes   yes     -
    4       `<cache_dir>/tfds`           yes   yes     -
    5       prepared there through TFDS  yes   yes     -
    6       npm or apt-get               -     -       yes
    ======  ===========================  ====  ======  ======

    A ``data_dir`` may also hold a part of the set (:func:`metasg_jax.data.packed.pack`), which is
    taken as it is. A directory that the user names (steps 1 and 3) must hold the data set: it is
    an error, not skipped, when it does not. Whatever is fetched is written to the cache. A damaged
    cache is reported and made again.

    Args:
        name: One of ``DATASETS``.
        source: One of ``SOURCES``.
        data_dir: A directory prepared by TFDS, or packed.
        cache_dir: Default: METASG_CACHE_DIR, else ~/.cache/metasg_jax.
        say: Is given one sentence about each thing that takes long or went wrong; None is silent
            and shows no progress either.

    Returns:
        The data set: images uint8 [M, h, w, c], labels int32 [M].

    Raises:
        UnknownNameError: ``name`` or ``source`` is not known.
        ConfigError: ``data_dir`` is given with source "mirror".
        DataError: The data can't be reached, or are not what they should be.

    Example:
        >>> dataset = load("digits")
        >>> dataset.train_x.shape[1:], dataset.num_classes
        ((8, 8, 1), 10)
    """
    expected = DATASETS[name]
    if source not in SOURCES:
        raise unknown_name("source", source, SOURCES)
    if data_dir is not None and source == "mirror":
        raise ConfigError("data_dir is read by source auto or tfds, not by source mirror")
    if name == "digits":
        dataset = digits.read()
        check(dataset, "scikit-learn")
        return dataset
    tell = say or (lambda sentence: None)
    if data_dir is not None and packed.holds(name, data_dir):
        part = packed.read(name, data_dir)
        tell(
            f"{name}: {len(part.train_y)} train and {len(part.test_y)} test images, "
            f"packed in {data_dir}"
        )
        return part
    folder = cache.directory(cache_dir)
    if data_dir is None and source != "tfds":
        cached, damage = cache.read(name, folder, expected.sha256)
        if cached is not None:
            try:
                check(cached, f"the cache in {folder}")
                return cached
            except DataError as error:
                damage = str(error)
        if damage:
            tell(f"{name}: the cache in {folder} is not usable, {damage}: making it again")
    begin = time.perf_counter()
    dataset, origin = _fetch(name, source, data_dir, folder, tell, progress=say is not None)
    dataset = canonical(dataset)
    check(dataset, origin)
    _keep(dataset, folder, origin, tell, begin)
    return dataset


def _fetch(
    name: str,
    source: str,
    data_dir: str | os.PathLike | None,
    folder: Path,
    tell: Say,
    progress: bool,
) -> tuple[Dataset, str]:
    """Reads a data set from its source; returns it with a word on where it came from."""
    if source == "mirror":
        return mirror.fetch(name, progress=progress), "the mirror"
    if data_dir is not None:
        return prepared.read(name, data_dir, progress=progress), f"data_dir {data_dir}"
    if environment := os.environ.get("TFDS_DATA_DIR"):
        field = "TFDS_DATA_DIR"
        return (
            prepared.read(name, environment, field=field, progress=progress),
            f"{field} {environment}",
        )
    own = folder / "tfds"
    try:
        return prepared.read(name, own, progress=progress), "TFDS"
    except DataError:  # Not prepared yet, or damaged.
        prepare.prepare(name, own, tell)
    return prepared.read(name, own, field="the TFDS directory", progress=progress), "TFDS"


def _keep(dataset: Dataset, folder: Path, origin: str, tell: Say, begin: float) -> None:
    """Writes the cache; a full disk costs the cache, not the run."""
    counts = f"{len(dataset.train_x)} train and {len(dataset.test_x)} test images"
    try:
        path = cache.write(dataset, folder, origin)
    except DataError as error:
        tell(f"{dataset.name}: {counts} from {origin}, not cached: {error}")
    else:
        seconds = time.perf_counter() - begin
        tell(f"{dataset.name}: {counts} from {origin} in {seconds:.0f} s, cached in {path}")
