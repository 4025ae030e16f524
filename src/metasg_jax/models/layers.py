"""Layers that stay fast when every client has weights of its own (a vmap over parameters)."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def clip_units(x: jax.Array, clip: jax.Array | None, start: int) -> jax.Array:
    """Bounds the last axis of ``x`` [..., F] by ``clip[start : start + F]``, if there is one."""
    if clip is None:
        return x
    bound = clip[start : start + x.shape[-1]]
    return jnp.minimum(x, bound.reshape((1,) * (x.ndim - 1) + bound.shape))


def max_pool(x: jax.Array, size: int = 2) -> jax.Array:
    """Maximum over ``size`` x ``size`` blocks of f32[B, h, w, F]; odd edges are dropped.

    A reshape and a maximum: XLA's reduce-window is many times slower on a CPU, forward and back.
    """
    b, h, w, f = x.shape
    h, w = h // size, w // size
    x = x[:, : h * size, : w * size].reshape(b, h, size, w, size, f)
    return x.max(axis=(2, 4))


class Convolution(nn.Module):
    """A valid convolution, stride 1, written as patches times a matrix.

    With per-client weights XLA turns a native convolution into a grouped one, which a CPU runs 7 to
    20 times slower than this product.

    Attributes:
        features: channels out.
        size: side of the square kernel.
    """

    features: int
    size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """f32[B, h, w, c] -> f32[B, h - size + 1, w - size + 1, features]."""
        _, h, w, c = x.shape
        out_h, out_w = h - self.size + 1, w - self.size + 1
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (self.size * self.size * c, self.features)
        )
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        patches = jnp.concatenate(
            [
                x[:, i : i + out_h, j : j + out_w, :]
                for i in range(self.size)
                for j in range(self.size)
            ],
            axis=-1,
        )
        return patches @ kernel + bias.reshape(1, 1, 1, -1)
