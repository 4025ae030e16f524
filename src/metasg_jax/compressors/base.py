"""What every compressor offers."""

from typing import ClassVar

import jax

from metasg_jax.struct import Struct
from metasg_jax.types import Key

FLOAT_BITS = 32


class CompressorBase(Struct):
    """A stateless map of one client's row, to be vmapped over clients.

    Attributes:
        lossless: whether the server reads what the client wrote: then no memory is kept.
    """

    lossless: ClassVar[bool] = False

    def bits(self, d: int) -> int:
        """How many bits a client sends for its d numbers."""
        raise NotImplementedError

    def __call__(self, key: Key, row: jax.Array) -> jax.Array:
        """What the server reads, f32[d], of a row f32[d].

        A row with an entry that is not finite comes out with one, unless that entry is not sent.

        Args:
            key: consumed by those that draw; others do not read it.
            row: the update, with what error feedback has added to it.
        """
        raise NotImplementedError


def count_of(share: float, d: int) -> int:
    """How many of d entries a share of them is, at least one."""
    return max(1, round(share * d))
