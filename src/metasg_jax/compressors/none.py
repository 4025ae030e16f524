"""No compression."""

from typing import ClassVar

from metasg_jax.compressors.base import FLOAT_BITS, CompressorBase


class Uncompressed(CompressorBase):
    """Each number as a float of 32 bits."""

    lossless: ClassVar[bool] = True

    def bits(self, d):
        """32 a number."""
        return FLOAT_BITS * d

    def __call__(self, key, row):
        """The row."""
        return row
