"""The clients' and the server's images as arrays that a jitted round can read."""

import jax
import jax.numpy as jnp

from metasg_jax.struct import Struct


class ClientData(Struct):
    """Images and who owns which. Owner N is the server: its list holds the root images.

    Attributes:
        images: u8[M, h, w, c].
        labels: i32[M].
        index: i32[N + 1, L], each owner's images in random order; padded by repetition.
        sizes: i32[N + 1], at least 1.
    """

    images: jax.Array
    labels: jax.Array
    index: jax.Array
    sizes: jax.Array

    def batches(self, owners: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images f32[n, S, B, h, w, c] in [0, 1] and labels at positions i32[n, S, B]."""
        return self.pick(jnp.broadcast_to(owners[:, None, None], positions.shape), positions)

    def pick(self, owners: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images f32[.., h, w, c] in [0, 1] and labels of owners at positions, each i32[..]."""
        chosen = self.index[owners, positions]
        return to_unit(self.images[chosen]), self.labels[chosen]


def to_unit(images: jax.Array) -> jax.Array:
    """u8 in 0..255 -> f32 in [0, 1]."""
    return images.astype("float32") * (1 / 255)


def stamp(x: jax.Array, mask: jax.Array, pattern: jax.Array) -> jax.Array:
    """Puts a trigger (mask, pattern f32[h, w, c]) on images f32[R, h, w, c]."""
    return x + mask[None] * (pattern[None] - x)
