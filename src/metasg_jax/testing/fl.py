"""Small federated-learning inputs, and the FL game at a size that compiles in seconds."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from metasg_jax.config import FLConfig, GameConfig
from metasg_jax.data import Dataset
from metasg_jax.game.bsmg import FLGame
from metasg_jax.game.make import make_game
from metasg_jax.types import Received


def received(updates, weights=None, root_update=None) -> Received:
    """A round's updates as the server would hold them, from nested lists or arrays [n, d].

    Args:
        updates: [n, d].
        weights: [n]; ones by default.
        root_update: [d] or None.
    """
    updates = jnp.asarray(updates, jnp.float32)
    n, d = updates.shape
    return Received(
        updates=updates,
        weights=jnp.ones((n,), jnp.float32)
        if weights is None
        else jnp.asarray(weights, jnp.float32),
        client_ids=jnp.arange(n, dtype=jnp.int32),
        w_global=jnp.zeros((d,), jnp.float32),
        root_update=None if root_update is None else jnp.asarray(root_update, jnp.float32),
        round=jnp.zeros((), jnp.int32),
    )


def tiny_dataset(num_classes: int = 3, side: int = 4, seed: int = 0) -> Dataset:
    """Noisy prototypes, one a class: learnable in a few steps, made in no time."""
    rng = np.random.default_rng(seed)
    prototypes = rng.integers(40, 216, (num_classes, side, side, 1))

    def draw(count):
        labels = rng.integers(0, num_classes, count).astype(np.int32)
        images = prototypes[labels] + rng.normal(0, 20, (count, side, side, 1))
        return np.clip(images, 0, 255).astype(np.uint8), labels

    return Dataset("tiny", *draw(300), *draw(90), num_classes)


def tiny_game(
    types: tuple[str, ...] = ("none", "ipm:scale=2@0.25", "bfl:boost=2@0.25"),
    fl: FLConfig | None = None,
    **settings,
) -> FLGame:
    """The FL game on :func:`tiny_dataset`: 8 clients, 4 sampled, 3 rounds.

    Args:
        types: as in :class:`~metasg_jax.config.GameConfig`.
        fl: other counts or learning rates.
        settings: other fields of :class:`~metasg_jax.config.GameConfig`.
    """
    fl = fl or FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=3, local_lr=0.5)
    defaults: dict[str, Any] = dict(
        hidden=(6,), level=0.5, num_root=12, num_validation=30, target=1
    )
    return make_game(GameConfig(types=types, **{**defaults, **settings}), fl, tiny_dataset())
