"""A small convolutional network: two convolutions with pooling, one dense layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from metasg_jax.models.layers import Convolution, clip_units, max_pool


class CNN(nn.Module):
    """Convolution 5x5, ReLU and 2x2 pooling, twice; dense with ReLU; a linear head.

    A channel counts as one hidden unit: clipping bounds it everywhere, pruning takes it away.

    Attributes:
        hidden: channels of the two convolutions, width of the dense layer; U is their sum.
        num_classes: C.
    """

    hidden: tuple[int, int, int]
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, clip: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Images f32[B, h, w, c] -> (logits f32[B, C], activations f32[B, U])."""
        *channels, width = self.hidden
        units, start = [], 0
        for i, features in enumerate(channels):
            x = max_pool(nn.relu(Convolution(features, 5, name=f"conv_{i}")(x)))
            units.append(x.max(axis=(1, 2)))
            x = clip_units(x, clip, start)
            start += features
        x = nn.relu(nn.Dense(width, name="dense")(x.reshape(x.shape[0], -1)))
        units.append(x)
        x = clip_units(x, clip, start)
        return nn.Dense(self.num_classes, name="head")(x), jnp.concatenate(units, axis=-1)
