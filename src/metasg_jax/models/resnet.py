"""Residual networks for small images, with group in place of batch normalisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from metasg_jax.errors import ConfigError
from metasg_jax.models.layers import Convolution, GroupNorm, Method, clip_channels


class ResNet(nn.Module):
    """A 3x3 convolution, stages of residual blocks, the mean over space, a linear head.

    As in He et al. (CVPR 2016), section 4.2, with :class:`~metasg_jax.models.layers.GroupNorm`:
    each stage after the first halves the image; a shortcut whose shape changes is a 1x1
    convolution. A block's channel counts as one hidden unit.

    Attributes:
        hidden: channels of the stages; U is their sum times ``blocks``.
        num_classes: C.
        blocks: in a stage, each of two convolutions.
        method: of the convolutions, see :func:`metasg_jax.models.layers.convolve`.
        images_at_once: as in :class:`~metasg_jax.models.cnn.CNN`.
    """

    hidden: tuple[int, ...]
    num_classes: int
    blocks: int = 2
    method: Method = "auto"
    images_at_once: int | None = 64

    @staticmethod
    def check(hidden: tuple[int, ...], input_shape: tuple[int, ...]) -> None:
        """Raises ConfigError for images that the stages halve away."""
        least, side = 2 ** (len(hidden) - 1), min(input_shape[:2])
        if side < least:
            raise ConfigError(
                f"hidden = {hidden}: {len(hidden)} stages need images of at least "
                f"{least}x{least}, got {input_shape[0]}x{input_shape[1]}"
            )

    @nn.compact
    def __call__(self, x: jax.Array, clip: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Images f32[B, h, w, c] -> (logits f32[B, C], activations f32[B, U])."""
        units, start = [], 0
        x = x.transpose(3, 1, 2, 0)
        x = Convolution(self.hidden[0], 3, method=self.method, name="stem")(x)
        x = nn.relu(GroupNorm(name="stem_norm")(x))
        for stage, features in enumerate(self.hidden):
            for block in range(self.blocks):
                stride = 2 if stage and not block else 1
                x = _Block(features, stride, self.method, name=f"block_{stage}_{block}")(x)
                x, seen = clip_channels(x, clip, start)
                units.append(seen)
                start += features
        logits = nn.Dense(self.num_classes, name="head")(x.mean(axis=(1, 2)).T)
        return logits, jnp.concatenate(units, axis=-1)


class ResNet8(ResNet):
    """One block a stage: with stages of 16, 32 and 64 channels eight layers, 78,000 parameters."""

    blocks: int = 1


class ResNet18(ResNet):
    """Two blocks a stage: with 64, 128, 256 and 512 channels 18 layers, 11.2 million parameters."""


class ResNet20(ResNet):
    """Three blocks a stage: with 16, 32 and 64 channels 20 layers, 270,000 parameters."""

    blocks: int = 3


class _Block(nn.Module):
    """Two normalised convolutions beside a shortcut."""

    features: int
    stride: int
    method: Method

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inner = Convolution(self.features, 3, self.stride, self.method, name="conv_0")(x)
        inner = nn.relu(GroupNorm(name="norm_0")(inner))
        inner = Convolution(self.features, 3, 1, self.method, name="conv_1")(inner)
        inner = GroupNorm(name="norm_1")(inner)
        if self.stride > 1 or x.shape[0] != self.features:
            x = Convolution(self.features, 1, self.stride, self.method, name="shortcut")(x)
            x = GroupNorm(name="shortcut_norm")(x)
        return nn.relu(inner + x)
