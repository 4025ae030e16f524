"""What a client's update becomes on a narrow wire: ``compressor(key, row) -> row``.

The row that comes out is what the server reads: compressed, sent and decompressed again. Each says
how many bits that took (``bits``). ``top_k:share=0.1`` names one with its settings; what it leaves
out of a row is sent later, see :mod:`metasg_jax.fl.wire`.
"""

import functools

from metasg_jax.compressors.base import CompressorBase
from metasg_jax.compressors.int8 import Int8
from metasg_jax.compressors.none import Uncompressed
from metasg_jax.compressors.random_k import RandomK
from metasg_jax.compressors.sign import Sign
from metasg_jax.compressors.top_k import TopK
from metasg_jax.limits import check_fields
from metasg_jax.registry import Registry, parse_variant

COMPRESSORS = Registry(
    "compressor",
    {"none": Uncompressed, "top_k": TopK, "random_k": RandomK, "int8": Int8, "sign": Sign},
)


@functools.lru_cache
def make_compressor(text: str) -> CompressorBase:
    """A registered compressor by its string, such as ``random_k:share=0.05``.

    Raises:
        UnknownNameError: for a name that is not registered.
        ConfigError: for an unknown field, or a share that is not in (0, 1].

    Example:
        >>> make_compressor("top_k:share=0.5").bits(8)
        140
    """
    compressor = parse_variant(COMPRESSORS, text, "compression")
    check_fields(compressor, share=(lambda v: 0 < v <= 1, "in (0, 1]"))
    return compressor


__all__ = [
    "COMPRESSORS",
    "CompressorBase",
    "Int8",
    "RandomK",
    "Sign",
    "TopK",
    "Uncompressed",
    "make_compressor",
]
