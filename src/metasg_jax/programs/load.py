"""A run that was trained before: its settings and its state."""

from pathlib import Path

import jax

from metasg_jax import checkpoint
from metasg_jax.config import RunConfig
from metasg_jax.data import Dataset
from metasg_jax.errors import CheckpointError
from metasg_jax.game.make import make_game
from metasg_jax.learning.state import MetaSGState, init_state


def load_run(directory: Path) -> tuple[RunConfig, Path]:
    """The settings of a run that has a checkpoint, and where that is."""
    checkpoints = directory / "checkpoints"
    if checkpoint.latest_step(checkpoints) is None:
        raise CheckpointError(f"there is no complete checkpoint in {directory}")
    return checkpoint.load_config(checkpoints), checkpoints


def load_state(config: RunConfig, checkpoints: Path, dataset: Dataset) -> MetaSGState:
    """The newest state of a run."""
    game = make_game(config.game, config.fl, dataset)
    return checkpoint.load(checkpoints, init_state(jax.random.key(0), game, config.meta), config)
