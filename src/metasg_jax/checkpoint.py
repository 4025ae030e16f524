"""Checkpoints by Orbax; the only file that imports it.

A checkpoint holds the learner's state and the settings it was made with. Saving is atomic: a run
killed in the middle of it, or a full disk, leaves the previous checkpoint good.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig, TeachConfig
from metasg_jax.errors import CheckpointError

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
    except (TypeError, KeyError) as error:
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


def _flatten(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for k, v in tree.items():
        flat.update(_flatten(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v})
    return flat


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
            checkpointer.save(
                step, state, custom_metadata=config_to_json(config), force=True, overwrite=True
            )
    except Exception as error:  # Orbax wraps an OSError in many ways
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written to {directory}: {error}; "
            "the previous one is still good, go on from it with --resume"
        ) from error


def latest_step(directory: Path) -> int | None:
    """The newest complete checkpoint's step, or None."""
    steps = saved_steps(directory)
    return steps[-1] if steps else None


def saved_steps(directory: Path) -> list[int]:
    """The steps of all complete checkpoints, in order."""
    if not directory.is_dir() or not any(directory.iterdir()):
        return []
    with _open(directory) as checkpointer:
        return sorted(saved.step for saved in checkpointer.checkpoints)


def load_config(directory: Path, step: int | None = None) -> RunConfig:
    """The settings that a checkpoint was made with, the newest by default.

    Raises:
        CheckpointError: where there is none.
    """
    step = _require_step(directory, step)
    with _open(directory) as checkpointer:
        return config_from_json(checkpointer.metadata(step).custom_metadata)


def load(directory: Path, abstract_state, config: RunConfig | None = None, step: int | None = None):
    """Loads a checkpoint, the newest by default.

    Args:
        directory: as given to :func:`save`.
        abstract_state: a state of the same structure, concrete or from ``jax.eval_shape``.
        config: if given, must be that of the checkpoint.
        step: which one.

    Raises:
        CheckpointError: where there is none, it can't be read, or ``config`` differs (names the
            fields).
    """
    step = _require_step(directory, step)
    if config is not None:
        fields = differing_fields(load_config(directory, step), config)
        if fields:
            raise CheckpointError(
                f"the checkpoint in {directory} was made with other settings: {'; '.join(fields)}"
            )
    target = jax.tree.map(_on_first_device, abstract_state)
    try:
        with _open(directory) as checkpointer:
            state = checkpointer.load(step, target)
    except Exception as error:  # Orbax raises many kinds for a damaged file
        raise CheckpointError(
            f"the checkpoint of step {step} in {directory} can't be read: {error}"
        ) from error
    # arrays of our own: the learner donates its state, and may not donate Orbax's buffers
    return jax.tree.map(lambda a: jax.numpy.array(np.asarray(a)), state)


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
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
