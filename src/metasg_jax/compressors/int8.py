"""Eight bits a number: uniform quantization, one scale a row."""

import jax.numpy as jnp

from metasg_jax.compressors.base import FLOAT_BITS, CompressorBase

_LEVELS = 127


class Int8(CompressorBase):
    """Whole numbers from -127 to 127 times a scale, the largest magnitude / 127; halves to even.

    Rounding is to the nearest and draws nothing: with error feedback its bias goes.

    Example:
        >>> import jax
        >>> Int8()(jax.random.key(0), jnp.array([127.0, -3.4, 0.5])).tolist()
        [127.0, -3.0, 0.0]
    """

    def bits(self, d):
        """8 a number, and the scale."""
        return 8 * d + FLOAT_BITS

    def __call__(self, key, row):
        """F32[d], each entry half a scale from the row's at most."""
        scale = jnp.abs(row).max() / _LEVELS
        return jnp.round(row / jnp.where(scale == 0, 1.0, scale)) * scale
