"""Random crops and mirror images in local training, as is usual for photographs."""

import jax
import jax.numpy as jnp

from metasg_jax.types import Key

BORDER = 1 / 8
"""Pixels that a crop may move by, as a share of a side: 4 of 32 (He et al., CVPR 2016)."""


def crop_and_flip(key: Key, x: jax.Array) -> jax.Array:
    """Each image moved by up to an eighth of a side over black, half of them mirrored.

    Args:
        key: consumed.
        x: f32[.., h, w, c].

    Returns:
        The same shape.
    """
    height, width, channels = x.shape[-3:]
    images = x.reshape(-1, height, width, channels)
    key_flip, key_rows, key_columns = jax.random.split(key, 3)
    flipped = jax.random.bernoulli(key_flip, 0.5, (len(images), 1, 1, 1))
    images = jnp.where(flipped, images[:, :, ::-1], images)
    down, right = (max(1, round(BORDER * side)) for side in (height, width))
    padded = jnp.pad(images, ((0, 0), (down, down), (right, right), (0, 0)))
    rows = jax.random.randint(key_rows, (len(images),), 0, 2 * down + 1)
    columns = jax.random.randint(key_columns, (len(images),), 0, 2 * right + 1)

    def crop(image, row, column):
        return jax.lax.dynamic_slice(image, (row, column, 0), (height, width, channels))

    return jax.vmap(crop)(padded, rows, columns).reshape(x.shape)
