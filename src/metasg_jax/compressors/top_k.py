"""Top-k sparsification (Aji and Heafield, EMNLP 2017; Stich, Cordonnier, Jaggi, NeurIPS 2018)."""

import jax.numpy as jnp

from metasg_jax.compressors.base import FLOAT_BITS, CompressorBase, count_of
from metasg_jax.compressors.selection import largest, magnitudes


class TopK(CompressorBase):
    """The k entries of largest magnitude, of those that are equal the first; the others are 0.

    Each is sent as a float and its place, in as few bits as number d places.

    Attributes:
        share: k / d, in (0, 1]; k is at least 1.

    Example:
        >>> import jax
        >>> TopK(share=0.5)(jax.random.key(0), jnp.array([1.0, -4.0, 0.5, 2.0])).tolist()
        [0.0, -4.0, 0.0, 2.0]
    """

    share: float = 0.01

    def bits(self, d):
        """The k floats and their places."""
        return count_of(self.share, d) * (FLOAT_BITS + (d - 1).bit_length())

    def __call__(self, key, row):
        """F32[d], k entries of the row."""
        return jnp.where(largest(magnitudes(row), count_of(self.share, len(row))), row, 0.0)
