"""Directories of runs whose learner has not learned: nothing is compiled for a meta-step."""

from pathlib import Path

import jax
import jax.numpy as jnp

from metasg_jax import checkpoint
from metasg_jax.config import RunConfig
from metasg_jax.data import Dataset
from metasg_jax.learning.state import MetaSGState, init_state
from metasg_jax.programs import run_directory
from metasg_jax.programs.pretrain import training_games


def untrained(
    config: RunConfig, dataset: Dataset, directory: Path, steps=(1,), prepare=None
) -> MetaSGState:
    """As :func:`metasg_jax.programs.pretrain.pretrain_program` leaves it, with fresh weights.

    Args:
        config: of the run.
        dataset: its data set.
        directory: of its files; made.
        steps: meta-steps of which there are checkpoints, in order; weights move a little each.
        prepare: what an attacker's run does to the state at its beginning.
    """
    directory.mkdir(parents=True, exist_ok=True)
    game = training_games(config, dataset)[0]
    state = init_state(jax.random.key(config.seed), game, config.meta)
    state = state if prepare is None else prepare(state, game)
    for step in steps:
        moved = jax.tree.map(lambda leaf, s=step: leaf + 0.01 * s, state.theta)
        state = state.replace(theta=moved, step=jnp.full_like(state.step, step))
        checkpoint.save(directory / "checkpoints", step, state, config)
    run_directory.write_config(directory, config)
    return state
