"""A small convolutional network: two convolutions with pooling, one dense layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from metasg_jax.errors import ConfigError
from metasg_jax.models.layers import Method, PooledConvolution, clip_channels, clip_units

# side of an image of which two convolutions of 5x5 with pooling leave a pixel
_SMALLEST = 16


class CNN(nn.Module):
    """Convolution 5x5, 2x2 pooling and ReLU, twice; dense with ReLU; a linear head.

    A channel counts as one hidden unit: clipping bounds it everywhere, pruning takes it away.

    Attributes:
        hidden: channels of the two convolutions, width of the dense layer; U is their sum.
        num_classes: C.
        method: of the convolutions, see :func:`metasg_jax.models.layers.convolve`.
        images_at_once: on a CPU clients train side by side while their batches hold no more images
            than this, whose patches fit into its cache; None for all clients at once.
    """

    hidden: tuple[int, int, int]
    num_classes: int
    method: Method = "auto"
    images_at_once: int | None = 160

    @staticmethod
    def check(hidden: tuple[int, ...], input_shape: tuple[int, ...]) -> None:
        """Raises ConfigError for another number of widths, or images that two poolings use up."""
        if len(hidden) != 3:
            raise ConfigError(f"hidden = {hidden}: a cnn has (channels, channels, width)")
        height, width, _ = input_shape
        if min(height, width) < _SMALLEST:
            raise ConfigError(
                f"model = 'cnn': images of {height}x{width} are too small: at least "
                f"{_SMALLEST}x{_SMALLEST}"
            )

    @nn.compact
    def __call__(self, x: jax.Array, clip: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Images f32[B, h, w, c] -> (logits f32[B, C], activations f32[B, U])."""
        *channels, width = self.hidden
        units, start = [], 0
        x = x.transpose(3, 1, 2, 0)
        for i, features in enumerate(channels):
            x = PooledConvolution(features, 5, self.method, name=f"conv_{i}")(x)
            x, seen = clip_channels(x, clip, start)
            units.append(seen)
            start += features
        x = nn.relu(nn.Dense(width, name="dense")(x.reshape(-1, x.shape[-1]).T))
        x = clip_units(x, clip, start)
        units.append(x)
        return nn.Dense(self.num_classes, name="head")(x), jnp.concatenate(units, axis=-1)
