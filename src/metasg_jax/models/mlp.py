"""A multi-layer perceptron with ReLU units."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from metasg_jax.models.layers import clip_units


class MLP(nn.Module):
    """Dense layers with ReLU, then a linear head.

    Attributes:
        hidden: widths of the hidden layers; U is their sum.
        num_classes: C.
    """

    hidden: tuple[int, ...]
    num_classes: int

    @staticmethod
    def check(hidden: tuple[int, ...], input_shape: tuple[int, ...]) -> None:
        """Any widths, any images."""

    @nn.compact
    def __call__(self, x: jax.Array, clip: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Images f32[B, h, w, c] -> (logits f32[B, C], activations f32[B, U])."""
        x = x.reshape(x.shape[0], -1)
        units = []
        for i, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, name=f"dense_{i}")(x))
            x = clip_units(x, clip, sum(self.hidden[:i]))
            units.append(x)
        return nn.Dense(self.num_classes, name="head")(x), jnp.concatenate(units, axis=-1)
