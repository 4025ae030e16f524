"""The model that the server trains on its own images, as a client would."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metasg_jax.errors import ConfigError
from metasg_jax.types import Params


@dataclass(frozen=True)
class RootSGD:
    """Plain SGD on the server's images; take the steps, batch and rate of your clients.

    Attributes:
        steps: local steps of a round, at least 1.
        lr: positive.
        batch_size: images of a step, at least 1; all of them where there are fewer.
    """

    steps: int = 10
    lr: float = 0.1
    batch_size: int = 32

    def __post_init__(self):
        """Raises ConfigError for numbers out of range."""
        for name in ("steps", "batch_size"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name} = {value}: at least 1")
        if not 0 < self.lr < float("inf"):
            raise ConfigError(f"lr = {self.lr:g}: positive and finite")

    def trainer(
        self, apply: Callable[[Params, Any], jax.Array], root: tuple[Any, Any]
    ) -> Callable[[Params, int], Params]:
        """(params, round) -> params, on batches that the round alone determines.

        Args:
            apply: ``(params, x) -> logits [B, C]``, traceable by JAX.
            root: x [R, ...] and y [R].
        """
        x, y = np.asarray(root[0]), np.asarray(root[1], np.int32)

        def loss(params, images, labels):
            logits = apply(params, images).astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        @jax.jit
        def step(params, images, labels):
            slope = jax.grad(loss)(params, images, labels)
            return jax.tree.map(lambda w, g: w - self.lr * g, params, slope)

        def by_round(params: Params, round: int) -> Params:
            rng = np.random.default_rng([round, len(y)])
            params = jax.tree.map(jnp.asarray, params)
            for _ in range(self.steps):  # a scan would run convolutions on a slow path of XLA
                rows = rng.permutation(len(y))[: self.batch_size]
                params = step(params, x[rows], y[rows])
            return params

        return by_round
