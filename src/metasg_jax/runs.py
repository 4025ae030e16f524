"""Where a run keeps its files.

::

    runs/mnist-cpu/
      config.json        the settings
      checkpoints/       the last states, two of them or as --keep says, by Orbax
      metrics.jsonl      one line a meta-step
      events.out.*       the same for TensorBoard
      learning.png       reward over meta-steps
      simulated.npz, simulated.png, simulated.md    what clients hold, where they are not real
      results.md, results.csv, accuracy.png    of the last evaluation
      certify.md, certify.csv, certify.png     of `metasg certify`
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from metasg_jax.checkpoint import config_to_json, latest_step
from metasg_jax.config import RunConfig
from metasg_jax.errors import CheckpointError

DEFAULT_ROOT = Path("runs")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that is to be there whole or not at all, whenever a run is killed.

    Args:
        path: of the file; the old one stays until the new one is complete.

    Yields:
        A path beside it, of the same suffix.
    """
    part = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
    yield part
    part.replace(path)


def new_directory(root: Path, name: str) -> Path:
    """``root/name``, or ``root/name-2`` and so on: no run overwrites another."""
    candidate, number = root / name, 2
    while candidate.exists() and any(candidate.iterdir()):
        candidate, number = root / f"{name}-{number}", number + 1
    return candidate


def newest(root: Path, prefix: str) -> Path:
    """The run of that prefix whose checkpoint is newest.

    Raises:
        CheckpointError: where there is none.
    """
    found = [d for d in root.glob(f"{prefix}*") if latest_step(d / "checkpoints") is not None]
    if not found:
        raise CheckpointError(
            f"no run of {prefix} with a checkpoint in {root}: run `metasg pretrain` first, "
            "or name a run with --run"
        )
    return max(found, key=lambda d: (d / "checkpoints").stat().st_mtime)


def begin(path: Path, about: dict, resume: bool, free: tuple[str, ...] = ()) -> None:
    """Writes what a run is about beside it, so that it is known before its end.

    Args:
        path: of the file; its directory is that of the run, made where it is missing.
        about: JSON.
        resume: whether a run that is there is gone on with.
        free: names that may differ then.

    Raises:
        CheckpointError: when resuming one that is about something else.
    """
    directory = path.parent
    directory.mkdir(parents=True, exist_ok=True)
    if resume and path.is_file():
        before = json.loads(path.read_text())
        about = json.loads(json.dumps(about))  # tuples are lists there
        other = [
            f"{name}: {before.get(name)!r}, not {value!r}"
            for name, value in about.items()
            if name not in free and before.get(name) != value
        ]
        if other:
            raise CheckpointError(f"{directory} was made with {'; '.join(other)}")
    path.write_text(json.dumps(about, indent=1) + "\n")


def write_config(directory: Path, config: RunConfig) -> None:
    """Writes the settings for a person to read; checkpoints carry their own copy."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config_to_json(config), indent=2) + "\n")


def keep_metrics_until(directory: Path, step: int) -> list[dict]:
    """Drops the lines after ``step`` that a killed run left, and returns the others."""
    path = directory / "metrics.jsonl"
    if not path.is_file():
        return []
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break  # cut off in the middle of a write
        if row["step"] <= step:
            kept.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    return kept


def append_metrics(directory: Path, rows: list[dict]) -> None:
    """Adds one line a meta-step."""
    with (directory / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@contextlib.contextmanager
def alone(out: Path):
    """Holds a lock on ``out`` that ends with the process, however it ends."""
    with (out / ".lock").open("w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on this system
            pass
        except OSError:
            raise CheckpointError(f"{out}: another process is writing to it") from None
        yield
    (out / ".lock").unlink(missing_ok=True)
