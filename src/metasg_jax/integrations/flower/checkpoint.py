"""A federation's state between two rounds, as one sealed safetensors file a checkpoint."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from metasg_jax import files
from metasg_jax.checkpoint import digest, mark
from metasg_jax.defender import DefenderState
from metasg_jax.errors import CheckpointError
from metasg_jax.features.layout import path_name
from metasg_jax.integrations.flower.records import Arrays, by_name

_FORMAT = 1
_NAME = re.compile(r"round-(\d{6,})\.safetensors")
_KEEP = 2
"""Checkpoints that are left: the newest, and one to go back to."""


@dataclass(frozen=True)
class Saved:
    """What a server needs to go on.

    Attributes:
        round: the last one that is in it, from 1.
        model: as it is sent out in the next round.
        state: of the defender.
        defender: sha256 of its weights.
        tally: what became of each node, JSON.
    """

    round: int
    model: Arrays
    state: DefenderState
    defender: str
    tally: list


def save(directory: Path, saved: Saved) -> None:
    """Writes ``round-000012.safetensors``, whole or not at all, and removes older ones but one.

    Raises:
        CheckpointError: where it can't be written; earlier ones stay.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{directory} can't be made: {error.strerror}") from error
    # not ascontiguousarray, which gives scalars a dimension
    tensors = {f"model/{name}": np.array(a, order="C") for name, a in saved.model.items()}
    tensors |= {f"state/{name}": a for name, a in by_name(saved.state).items()}
    settings = {
        "format": _FORMAT,
        "round": saved.round,
        "names": list(saved.model),  # safetensors keeps no order
        "form": saved.state.form,
        "defender": saved.defender,
        "tally": saved.tally,
    }
    text = json.dumps(settings, sort_keys=True)
    path = directory / f"round-{saved.round:06d}.safetensors"
    with files.whole(path) as part:
        save_file(tensors, part, {"settings": text, "check": _seal(text, tensors)})
    for old in _paths(directory)[:-_KEEP]:
        old.unlink(missing_ok=True)


def latest(directory: Path, like: DefenderState) -> Saved | None:
    """The newest checkpoint of a directory, None where there is none.

    Args:
        directory: as given to :func:`save`; it may be missing.
        like: a state of the same defender and model; one of another model is refused.

    Raises:
        CheckpointError: where the newest is damaged (names the one before, if there is one) or is
            of another model.
    """
    paths = _paths(directory)
    if not paths:
        return None
    try:
        return _read(paths[-1], like)
    except CheckpointError as error:
        before = f"; move it away to go on from {paths[-2].name}" if paths[1:] else ""
        raise CheckpointError(f"{error}{before}") from error


def _paths(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(_NAME.fullmatch(path.name)[1]))  # pyrefly: ignore


def _read(path: Path, like: DefenderState) -> Saved:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        settings: dict[str, Any] = json.loads(metadata["settings"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{path} can't be read, or is damaged: {error}") from error
    if metadata.get("check") != _seal(metadata["settings"], tensors):
        raise CheckpointError(f"{path} is damaged: it is not what was written")
    if settings.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: format {settings.get('format')!r}, not {_FORMAT}")
    if settings["form"] != like.form:
        raise CheckpointError(
            f"{path} is of another model (names or shapes differ): name another checkpoint_dir, "
            "or move it away to begin anew"
        )
    flat, treedef = jax.tree_util.tree_flatten_with_path(like)
    leaves = []
    for place, leaf in flat:
        tensor = tensors.get(f"state/{path_name(place)}")
        if tensor is None or tensor.shape != leaf.shape or tensor.dtype != leaf.dtype:
            found = "missing" if tensor is None else f"{tensor.dtype}{list(tensor.shape)}"
            raise CheckpointError(
                f"{path}: {path_name(place)} of the defender's memory is {found}, not "
                f"{leaf.dtype}{list(leaf.shape)}; num_slots and features must be those of before"
            )
        leaves.append(jnp.asarray(tensor))
    model = Arrays((name, tensors[f"model/{name}"]) for name in settings["names"])
    state = treedef.unflatten(leaves)
    return Saved(settings["round"], model, state, settings["defender"], settings["tally"])


def _seal(settings: str, tensors: dict[str, np.ndarray]) -> str:
    """The sha256 of all that a file holds."""
    return mark([settings, sorted(tensors), digest(tensors)])
