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

import json
from pathlib import Path

from metasg_jax.checkpoint import config_to_json, latest_step
from metasg_jax.config import RunConfig
from metasg_jax.errors import CheckpointError
from metasg_jax.files import (
    CHECK,
    append_text,
    checksum,
    read_json,
    whole,
    whole_lines,
    write_json,
    write_text,
)

__all__ = [
    "DEFAULT_ROOT",
    "append_metrics",
    "begin",
    "keep_metrics_until",
    "new_directory",
    "newest",
    "whole",
    "write_config",
]

DEFAULT_ROOT = Path("runs")


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
        before = read_json(path)
        about = json.loads(json.dumps(about))  # tuples are lists there
        other = [
            f"{name}: {before.get(name)!r}, not {value!r}"
            for name, value in about.items()
            if name not in free and before.get(name) != value
        ]
        if other:
            raise CheckpointError(f"{directory} was made with {'; '.join(other)}")
    write_json(path, about)


def write_config(directory: Path, config: RunConfig) -> None:
    """Writes the settings for a person to read; checkpoints carry their own copy."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "config.json", json.dumps(config_to_json(config), indent=2) + "\n")


def keep_metrics_until(directory: Path, step: int, owner: str = "") -> list[dict]:
    """Drops the lines after ``step`` that a killed run left, and returns the others.

    Args:
        directory: of the run.
        step: of its checkpoint.
        owner: as given to :func:`append_metrics`.

    Raises:
        CheckpointError: where the lines of steps 1 to ``step`` are not there as they were written;
            the file stays as it is. Only a last line that was cut off may be damaged.
    """
    path = directory / "metrics.jsonl"
    if not path.is_file():
        lines, rest = [], ""
    else:
        lines, rest = whole_lines(path)
    rows = [_metrics_of(path, number, line, owner) for number, line in enumerate(lines, 1)]
    kept = [row for row in rows if row["step"] <= step]
    if [row["step"] for row in kept] != list(range(1, step + 1)):
        raise CheckpointError(
            f"{path} is damaged: it holds {len(kept)} of the lines of {step} meta-steps; put it "
            "back from a copy (the checkpoints are whole, and can be evaluated)"
        )
    if rest or len(kept) < len(rows):
        write_text(path, "".join(_metrics_line(row, owner) for row in kept))
    return kept


def forget_metrics(directory: Path, most: int) -> None:
    """Removes the lines of a run that has no checkpoint.

    Raises:
        CheckpointError: where there are more than ``most``: its checkpoints have been lost.
    """
    path = directory / "metrics.jsonl"
    if path.is_file():
        lines = path.read_bytes().count(b"\n")
        if lines > most:
            raise CheckpointError(
                f"{directory} has no complete checkpoint, but the lines of {lines} meta-steps: put "
                f"its checkpoints back, or move {path} away to begin anew"
            )
        path.unlink()


def _metrics_of(path: Path, number: int, line: str, owner: str) -> dict:
    try:
        row = json.loads(line)
        if row.pop(CHECK) != _check(row, owner) or not isinstance(row["step"], int):
            raise ValueError("it is not what this run wrote")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged in line {number}: {error}; put it back from a copy (the "
            "checkpoints are whole, and can be evaluated)"
        ) from None
    return row


def _check(row: dict, owner: str) -> str:
    return checksum([owner, json.dumps(row)])


def _metrics_line(row: dict, owner: str = "") -> str:
    return json.dumps(row | {CHECK: _check(row, owner)}) + "\n"


def append_metrics(directory: Path, rows: list[dict], owner: str = "") -> None:
    """Adds one line a meta-step; they are on the disk at its return.

    Args:
        directory: of the run.
        rows: a line each.
        owner: what tells the run from others, part of the checksums.

    Raises:
        CheckpointError: where it can't be written.
    """
    append_text(directory / "metrics.jsonl", "".join(_metrics_line(row, owner) for row in rows))
