"""Bounds measured in the same run: what the necessary work costs at the machine's own rates."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from benchmarks.worker import Contestant

_PRODUCT_SIZE = 1024
_COPIED_FLOATS = 32 * 2**20


def training_flops(model: str, hidden: Sequence[int], images: int) -> int:
    """FLOPs of the matrix products of one SGD step on ``images`` images of 28 x 28 x 1.

    A layer's forward product, the gradient of its weights, and the gradient of its input, which the
    first layer does not need; 2 FLOPs a multiply-add.

    Example:
        >>> training_flops("mlp", (128,), 1) == 2 * (2 * 784 * 128 + 3 * 128 * 10)
        True
    """
    first, *rest = [inputs * outputs * places for inputs, outputs, places in _layers(model, hidden)]
    return images * 2 * (2 * first + 3 * sum(rest))


def _layers(model: str, hidden: Sequence[int]) -> list[tuple[int, int, int]]:
    """(inputs, outputs, places where the product is taken) of each layer."""
    if model == "mlp":
        widths = [28 * 28, *hidden, 10]
        return [(a, b, 1) for a, b in itertools.pairwise(widths)]
    # two valid 5x5 convolutions, each followed by 2x2 pooling: 28 -> 24 -> 12 -> 8 -> 4
    first, second, width = hidden
    return [
        (25, first, 24 * 24),
        (25 * first, second, 8 * 8),
        (16 * second, width, 1),
        (width, 10, 1),
    ]


def products(flops: float) -> Contestant:
    """The time of so many FLOPs at the rate of a 1024 x 1024 product in float32."""
    a = jnp.ones((_PRODUCT_SIZE, _PRODUCT_SIZE))
    multiply = jax.jit(jnp.matmul)
    return Contestant(
        lambda: multiply(a, a).block_until_ready(),
        factor=flops / (2 * _PRODUCT_SIZE**3),
        compiles=True,
        facts={"flops": flops},
    )


def one_read(n: int, d: int) -> Contestant:
    """The time to read f32[n, d] once, at the bandwidth of a large copy (bytes read and written).

    The copy is far larger than the caches. A rule whose input stays in them may be faster.
    """
    # in place, into memory that is there already: fresh pages would be timed otherwise
    copy = jax.jit(lambda x: x + 1, donate_argnums=0)
    buffer = [jnp.ones((_COPIED_FLOATS,))]

    def run():
        buffer[0] = copy(buffer[0]).block_until_ready()

    return Contestant(run, factor=n * d / (2 * _COPIED_FLOATS), compiles=True)


def gram(updates: jax.Array) -> Contestant:
    """The product of f32[n, d] with its own transpose, which every distance needs."""
    multiply = jax.jit(lambda a: a @ a.T)
    return Contestant(lambda: multiply(updates).block_until_ready(), compiles=True)
