"""What an update does to each class in the last matrix: sorted, so that no class is special."""

import jax.numpy as jnp

from metasg_jax.features.base import TINY, Rows, ServerData
from metasg_jax.numerics import safe_sqrt

NAMES = (
    "class_largest", "class_second", "class_third", "class_median",
    "bias_lowest", "bias_second_lowest", "bias_second_highest", "bias_highest",
)  # fmt: skip


def classes(rows: Rows, server: ServerData):
    """Shares of the classes in the last matrix's update, and the ends of its sorted bias.

    Fewer than four classes repeat the last one. One pass over the last matrix.
    """
    last = server.layout.last
    assert last is not None
    kernel = rows.updates[:, last.kernel.start : last.kernel.stop].reshape(-1, *last.shape)
    lengths = safe_sqrt(jnp.sum(kernel**2, axis=2 if last.classes_first else 1))
    shares = lengths / jnp.maximum(lengths.sum(axis=1, keepdims=True), TINY)
    count = shares.shape[1]
    if last.bias is None:
        bias = jnp.zeros((shares.shape[0], count), jnp.float32)
    else:
        bias = rows.updates[:, last.bias.start : last.bias.stop]
    bias = bias / jnp.maximum(jnp.abs(bias).sum(axis=1, keepdims=True), TINY)
    # one sort for both
    shares, bias = jnp.sort(jnp.stack([shares, bias]), axis=2)
    largest = shares[:, [max(count - 1 - i, 0) for i in (0, 1, 2, count // 2)]]
    # relative to an even share, so that the number of classes does not matter
    largest = largest * count / 10
    ends = bias[:, [0, min(1, count - 1), max(count - 2, 0), count - 1]]
    return jnp.concatenate([largest, ends], axis=1)
