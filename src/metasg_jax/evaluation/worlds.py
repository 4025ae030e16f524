"""The worlds in which defenders are judged: never those in which they were trained or chosen."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from metasg_jax.config import GameConfig, RunConfig
from metasg_jax.data import TRIGGERS, Dataset
from metasg_jax.game.make import make_game

# Seeds of the streams from which worlds are drawn; pre-training uses the run's own small seeds.
FINAL, SELECTION = 1_000_003, 2_000_003

WIDTH = 1024
"""Lists of images are padded to a multiple of this, so that worlds made apart share a program."""


def of_shared_shape(game):
    """A game that shares its program with those made elsewhere."""
    return of_one_shape([game], WIDTH)[0]


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


def of_one_shape(games: Sequence, multiple: int = 1) -> list:
    """The same games, with lists of images padded to one length, so that one program plays them.

    Changes no result: what a client draws from is bounded by its own number of images.

    Args:
        games: of the same kinds.
        multiple: the length is one of it, so that games made elsewhere get the same.
    """
    width = max(game.data.index.shape[1] for game in games)
    width = -(-width // multiple) * multiple

    def padded(game):
        index = game.data.index
        repeats = -(-width // index.shape[1])
        data = game.data.replace(index=jnp.tile(index, (1, repeats))[:, :width])
        return game.replace(data=data)

    return [padded(game) for game in games]
