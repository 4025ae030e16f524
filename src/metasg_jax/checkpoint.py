"""Checkpoints by Orbax; the only file that imports it.

A checkpoint holds the learner's state and the settings it was made with. Saving is atomic: a run
killed in the middle of it, or a full disk, leaves the previous checkpoint good. Orbax has no
checksum of large arrays, so a checkpoint is sealed: digests of its settings and of its state lie in
its metadata, those of its files beside them, and they are compared whenever one is read.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig, TeachConfig
from metasg_jax.errors import CheckpointError
from metasg_jax.files import read_json, sha256, write_json

# where the metadata keeps the digests, beside the settings
_SEAL = "seal"
# beside Orbax's files, the digest of each: so that damage is named before Orbax stumbles over it
_FILES = "files.json"
# settings that may differ between a checkpoint and the run that goes on from it
_FREE = ("steps", "chunk", "keep", "memory_gib")


def config_to_json(config: RunConfig) -> dict:
    """The settings as plain JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_from_json(tree: dict) -> RunConfig:
    """The inverse of :func:`config_to_json`.

    Raises:
        CheckpointError: for settings that this version does not know.
    """
    rooms = {"game": GameConfig, "fl": FLConfig, "meta": MetaConfig, "teach": TeachConfig}
    try:
        parts = {k: _build(cls, tree[k]) for k, cls in rooms.items()}
        rest = {k: _tupled(v) for k, v in tree.items() if k not in rooms}
        return RunConfig(**parts, **rest)
    except (TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"the checkpoint's settings are not those of this version: {error}"
        ) from error


def _build(cls, values: dict):
    return cls(**{k: _tupled(v) for k, v in values.items()})


def _tupled(value) -> Any:
    """JSON has lists only."""
    return tuple(_tupled(each) for each in value) if isinstance(value, list) else value


def differing_fields(a: RunConfig, b: RunConfig) -> list[str]:
    """Names of the fields in which two runs differ, as ``meta.group_size: 4, not 8``.

    ``steps``, ``chunk``, ``keep`` and ``memory_gib`` may differ: they change nothing in what was
    computed.
    """
    flat_a, flat_b = _flatten(config_to_json(a)), _flatten(config_to_json(b))
    return [
        f"{name}: {flat_a.get(name)!r}, not {flat_b.get(name)!r}"
        for name in sorted(flat_a.keys() | flat_b.keys())
        if name not in _FREE and flat_a.get(name) != flat_b.get(name)
    ]


def lasting(config: RunConfig) -> dict:
    """The settings that change what is computed, as plain JSON."""
    return {name: value for name, value in config_to_json(config).items() if name not in _FREE}


def _flatten(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for k, v in tree.items():
        flat.update(_flatten(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v})
    return flat


def digest(tree) -> str:
    """The sha256 (64 hex digits) of the leaves: dtype, shape and bytes of each, in tree order."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def _sealed(settings: dict, step: int, state) -> dict:
    """The metadata of a checkpoint: its settings and what tells whether they are still those."""
    # with the step, so that a checkpoint which was renamed is noticed too
    return settings | {_SEAL: {"settings": mark([step, settings]), "state": digest(state)}}


def _digests(place: Path) -> dict[str, str]:
    """The sha256 of each file of a checkpoint, by its path there."""
    return {
        path.relative_to(place).as_posix(): sha256(path)
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.name != _FILES
    }


def _require_files(place: Path) -> None:
    """Compares a checkpoint's files with their digests, where it was not killed before these."""
    if not (place / _FILES).is_file():
        return
    expected, found = read_json(place / _FILES), _digests(place)
    for name, digest in expected.items():
        if found.get(name) != digest:
            what = "is damaged" if name in found else "is missing"
            raise CheckpointError(f"{place / name} {what}")


def mark(tree) -> str:
    """The sha256 (64 hex digits) of what JSON can hold."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _open(directory: Path, keep: int = 0, **kwargs) -> ocp.training.Checkpointer:
    """``keep`` is how many are left when another is saved, 0 all."""
    policy = ocp.training.preservation_policies.LatestN(keep or None)
    return ocp.training.Checkpointer(
        str(directory.resolve()),
        preservation_policy=policy,  # pyrefly: ignore
        save_decision_policy=None,
        **kwargs,
    )


def save(directory: Path, step: int, state, config: RunConfig) -> None:
    """Saves a state as of ``step``; leaves the newest ``config.keep``, all if that is 0.

    Raises:
        CheckpointError: where it can't be written; earlier checkpoints stay as they are.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _open(directory, config.keep, cleanup_tmp_directories=True) as checkpointer:
            metadata = _sealed(config_to_json(config), step, state)
            if jax.process_count() > 1:  # Orbax saves no array that is on one process's device
                state = jax.tree.map(np.asarray, state)
            checkpointer.save(step, state, custom_metadata=metadata, force=True, overwrite=True)
        if jax.process_index() == 0:
            write_json(directory / str(step) / _FILES, _digests(directory / str(step)))
    except Exception as error:  # Orbax wraps an OSError in many ways
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written to {directory}: {_short(error)}; "
            "the previous one is still good, go on from it with --resume"
        ) from error


def latest_step(directory: Path) -> int | None:
    """The newest complete checkpoint's step, or None."""
    steps = saved_steps(directory)
    return steps[-1] if steps else None


def saved_steps(directory: Path) -> list[int]:
    """The steps of all complete checkpoints, in order.

    Raises:
        CheckpointError: where the directory can't be read.
    """
    try:
        if not directory.is_dir() or not any(directory.iterdir()):
            return []
        with _open(directory) as checkpointer:
            return sorted(saved.step for saved in checkpointer.checkpoints)
    except Exception as error:  # one damaged entry makes Orbax refuse the directory, in many ways
        raise CheckpointError(f"{directory} can't be read: {_short(error)}") from error


def load_config(directory: Path, step: int | None = None) -> RunConfig:
    """The settings that a checkpoint was made with, the newest by default.

    Raises:
        CheckpointError: where there is none, or they are damaged (names the last good one).
    """
    step = _require_step(directory, step)

    def read(step: int) -> RunConfig:
        settings = _settings(directory, step)[0]
        try:
            return config_from_json(settings)
        except CheckpointError as error:
            raise CheckpointError(f"{directory / str(step)}: {error}") from error

    return _or_name_another(directory, step, read)


def _settings(directory: Path, step: int) -> tuple[dict, str]:
    """(the settings of a checkpoint, compared with their digest; the digest of its state)."""
    place = directory / str(step)
    try:
        _require_files(place)
        with _open(directory) as checkpointer:
            settings = dict(checkpointer.metadata(step).custom_metadata or {})
        seal = settings.pop(_SEAL, None)
        if seal is None:
            raise CheckpointError(
                f"{place} holds no digest of its contents: an older version made it, or its "
                "metadata is damaged"
            )
        if seal["settings"] != mark([step, settings]):
            raise CheckpointError(f"{place}: its settings are not those that were saved: damaged")
        return settings, seal["state"]
    except CheckpointError:
        raise
    except Exception as error:  # what is damaged may be of any type
        raise CheckpointError(f"{place}: its metadata can't be read: {_short(error)}") from error


def _or_name_another(directory: Path, step: int, read: Callable[[int], Any]) -> Any:
    """What ``read`` returns of a checkpoint; where that fails, the newest that can be is named."""
    try:
        return read(step)
    except CheckpointError as error:
        good = next(
            (s for s in reversed(saved_steps(directory)) if s != step and _can(read, s)), None
        )
        if good is None:
            raise
        raise CheckpointError(
            f"{error}; checkpoint {good} is the last good one, and the newest once "
            f"{directory / str(step)} is moved away"
        ) from error


def _can(read: Callable[[int], Any], step: int) -> bool:
    with contextlib.suppress(CheckpointError):
        read(step)
        return True
    return False


def load(directory: Path, abstract_state, config: RunConfig | None = None, step: int | None = None):
    """Loads a checkpoint, the newest by default.

    Args:
        directory: as given to :func:`save`.
        abstract_state: a state of the same structure, concrete or from ``jax.eval_shape``.
        config: if given, must be that of the checkpoint.
        step: which one.

    Raises:
        CheckpointError: where there is none, it can't be read, it is not what was saved (names the
            last good one), or ``config`` differs (names the fields).
    """
    step = _require_step(directory, step)
    if config is not None:
        fields = differing_fields(load_config(directory, step), config)
        if fields:
            raise CheckpointError(
                f"the checkpoint in {directory} was made with other settings: {'; '.join(fields)}"
            )
    state = _or_name_another(
        directory, step, lambda each: _load_state(directory, abstract_state, each)
    )
    # arrays of our own: the learner donates its state, and may not donate Orbax's buffers
    return jax.tree.map(lambda a: jax.numpy.array(np.asarray(a)), state)


def _load_state(directory: Path, abstract_state, step: int):
    place, (_, expected) = directory / str(step), _settings(directory, step)
    target = jax.tree.map(_on_first_device, abstract_state)
    try:
        with _open(directory) as checkpointer:
            state = checkpointer.load(step, target)
    except Exception as error:  # Orbax raises many kinds for a damaged file
        raise CheckpointError(f"{place} can't be read: {_short(error)}") from error
    if digest(state) != expected:
        raise CheckpointError(f"{place}: its state is not what was saved: a file is damaged")
    return state


def _short(error: BaseException, most: int = 300) -> str:
    """What an error says, without the screens of shapes that Orbax adds."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else f"{text[:most]} ..."


def _require_step(directory: Path, step: int | None) -> int:
    steps = saved_steps(directory)
    if not steps:
        raise CheckpointError(f"there is no complete checkpoint in {directory}")
    if step is None:
        return steps[-1]
    if step not in steps:
        there = ", ".join(map(str, steps))
        raise CheckpointError(f"there is no checkpoint of step {step} in {directory}: {there}")
    return step


def _on_first_device(leaf):
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
