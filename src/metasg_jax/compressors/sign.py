"""Signs with error feedback (EF-signSGD: Karimireddy, Rebjock, Stich, Jaggi, ICML 2019)."""

import jax.numpy as jnp

from metasg_jax.compressors.base import FLOAT_BITS, CompressorBase


class Sign(CompressorBase):
    """The sign of each entry, times the mean magnitude of the row; 0 counts as positive.

    Example:
        >>> import jax
        >>> Sign()(jax.random.key(0), jnp.array([3.0, -1.0, 0.5])).tolist()
        [1.5, -1.5, 1.5]
    """

    def bits(self, d):
        """One a number, and the mean magnitude."""
        return d + FLOAT_BITS

    def __call__(self, key, row):
        """F32[d], all of one magnitude."""
        size = jnp.abs(row).mean()
        return jnp.where(row >= 0, size, -size)
