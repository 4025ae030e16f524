"""Random-k sparsification with memory (Stich, Cordonnier, Jaggi, NeurIPS 2018)."""

import jax
import jax.numpy as jnp

from metasg_jax.compressors.base import FLOAT_BITS, CompressorBase, count_of
from metasg_jax.compressors.selection import largest


class RandomK(CompressorBase):
    """The entries at k different places drawn at random, a client's own each round.

    They are sent as they are, not times d / k: error feedback, not the scale, makes up for those
    that are missing. The places follow from a seed of 32 bits, which is sent along.

    Attributes:
        share: k / d, in (0, 1]; k is at least 1.

    Example:
        >>> int((RandomK(share=0.25)(jax.random.key(0), jnp.ones(8)) != 0).sum())
        2
    """

    share: float = 0.1

    def bits(self, d):
        """The k floats and a seed."""
        return FLOAT_BITS * (count_of(self.share, d) + 1)

    def __call__(self, key, row):
        """F32[d], k entries of the row."""
        draws = jax.random.bits(key, row.shape, jnp.uint32)
        lots = (draws >> 1).astype(jnp.int32)
        return jnp.where(largest(lots, count_of(self.share, len(row))), row, 0.0)
