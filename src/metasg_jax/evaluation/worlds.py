"""The worlds in which defenders are judged: never those in which they were trained or chosen."""

import dataclasses

import numpy as np

from metasg_jax.config import GameConfig, RunConfig
from metasg_jax.data import TRIGGERS, Dataset
from metasg_jax.game.make import make_game

# Seeds of the streams from which worlds are drawn; pre-training uses the run's own small seeds.
FINAL, SELECTION = 1_000_003, 2_000_003


def world(config: RunConfig, dataset: Dataset, seed: int, stream: int = FINAL):
    """A game with its own splits, partition and trigger, and another target than the run's.

    Args:
        config: of the run.
        dataset: loaded once by the caller.
        seed: of the world within its stream.
        stream: ``FINAL`` or ``SELECTION``.
    """
    return make_game(world_settings(config, dataset, seed, stream), config.fl, dataset)


def world_settings(
    config: RunConfig, dataset: Dataset, seed: int, stream: int = FINAL
) -> GameConfig:
    """What :func:`world` makes its game of."""
    rng = np.random.default_rng([stream, seed])
    height, width = (side // config.game.pool for side in dataset.train_x.shape[1:3])
    names, classes = sorted(TRIGGERS), range(dataset.num_classes)
    return dataclasses.replace(
        config.game,
        seed=stream + seed,
        trigger=names[rng.integers(len(names))],
        trigger_position=(int(rng.integers(height - 2)), int(rng.integers(width - 2))),
        target=int(rng.choice([c for c in classes if c != config.game.target])),
    )
