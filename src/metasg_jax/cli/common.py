"""What several commands share: where images come from, how a table is made, a preset."""

import argparse
import dataclasses

from rich.console import Console

from metasg_jax.config import RunConfig
from metasg_jax.data import DATASETS, SOURCES, Dataset, load
from metasg_jax.errors import ConfigError
from metasg_jax.presets import PRESETS
from metasg_jax.registry import unknown_name


@dataclasses.dataclass(frozen=True)
class Source:
    """Where images come from."""

    source: str = "auto"
    """auto: prepared directory, cache, then TFDS; tfds; mirror: npm or apt-get packages."""
    data_dir: str | None = None
    """A directory prepared by TensorFlow Datasets (default: TFDS_DATA_DIR, if set), or packed by
    metasg data --pack."""


@dataclasses.dataclass(frozen=True)
class Judging:
    """How the table at the end is made."""

    eval_seeds: int = 3
    """Fresh worlds (partition, trigger, target, models) that every defender is played on."""
    grid: tuple[int, int, int] = (4, 3, 3)
    """Clips x trims x post-training levels searched for the best fixed action; 0 0 0 for none."""
    selection_seeds: int = 2
    """Worlds of that search; never those of the table."""

    def check(self) -> None:
        """Raises ConfigError where a number is out of range: before anything is trained."""
        numbers = {"eval_seeds": (self.eval_seeds,), "grid": self.grid,
                   "selection_seeds": (self.selection_seeds,)}  # fmt: skip
        for name, values in numbers.items():
            if not all(0 <= value <= 10_000 for value in values):
                shown = " ".join(map(str, values))
                raise ConfigError(f"{name} = {shown}: at least 0, at most 10,000")


QUICK = Judging(eval_seeds=2, grid=(2, 2, 2), selection_seeds=1)


def preset_of(argv: list[str]) -> RunConfig:
    """The settings of preset ``cpu`` for the data set that the arguments name."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--dataset", default="digits")
    known, _ = early.parse_known_args(argv)
    DATASETS[known.dataset]
    return PRESETS["cpu"].get_config(known.dataset)


def load_images(name: str, source: Source, console: Console) -> Dataset:
    """Loads a data set from where the arguments say.

    Raises:
        UnknownNameError: for a source that is not registered.
        DataError: where the images can't be had.
    """
    if source.source not in SOURCES:
        raise unknown_name("source", source.source, SOURCES)
    return load(
        name, source=source.source, data_dir=source.data_dir, say=lambda text: console.print(text)
    )
