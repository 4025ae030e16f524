"""Layers that stay fast when every client has weights of its own (a vmap over parameters).

Images inside a convolutional network are f32[c, h, w, B]: with the batch innermost, patches,
pooling and their gradients move whole vectors, whatever the number of channels.
"""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

Method = Literal["auto", "patches", "native"]


def clip_units(x: jax.Array, clip: jax.Array | None, start: int, axis: int = -1) -> jax.Array:
    """Bounds the units along ``axis`` of ``x`` by ``clip[start : start + F]``, if there is one."""
    if clip is None:
        return x
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    return jnp.minimum(x, clip[start : start + x.shape[axis]].reshape(shape))


def clip_channels(x: jax.Array, clip: jax.Array | None, start: int) -> tuple[jax.Array, jax.Array]:
    """Channels f32[F, h, w, B] as hidden units: (bounded as by :func:`clip_units`, f32[B, F]).

    What a unit shows of a channel is its maximum over space.
    """
    x = clip_units(x, clip, start, axis=0)
    return x, x.max(axis=(1, 2)).T


class PooledConvolution(nn.Module):
    """A valid convolution of stride 1, 2x2 max-pooling, a bias and ReLU.

    The bias comes after the maximum, with which it commutes, on a quarter of the values.

    Attributes:
        features: channels out.
        size: side of the square kernel.
        method: see :func:`convolve`.
    """

    features: int
    size: int
    method: Method = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """f32[c, h, w, B] -> f32[features, (h - size + 1) // 2, (w - size + 1) // 2, B]."""
        shape = (self.size * self.size * x.shape[0], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        pooled = max_pool(convolve(x, kernel, self.size, self.method))
        return nn.relu(pooled + bias.reshape(-1, 1, 1, 1))


class Convolution(nn.Module):
    """A convolution without bias whose image keeps its size, or halves it by a stride of 2.

    Attributes:
        features: channels out.
        size: odd side of the square kernel.
        stride: 1 or 2.
        method: see :func:`convolve`.
    """

    features: int
    size: int
    stride: int = 1
    method: Method = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """f32[c, h, w, B] -> f32[features, ceil(h / stride), ceil(w / stride), B]."""
        shape = (self.size * self.size * x.shape[0], self.features)
        # He et al. (2015): what comes after is a ReLU
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        border = self.size // 2
        x = jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
        return convolve(x, kernel, self.size, self.method, self.stride)


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He, ECCV 2018) of f32[c, h, w, B], in two groups of channels.

    It needs no statistics of a batch, which hostile or unlike clients would share; two groups as
    in Reddi et al. (ICLR 2021).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The same shape; each group of channels of each image has mean 0 and variance 1."""
        channels = x.shape[0]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,))
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,))
        grouped = x.reshape(2 if channels % 2 == 0 else 1, -1, *x.shape[1:])
        grouped = grouped - grouped.mean(axis=(1, 2, 3), keepdims=True)
        variance = (grouped**2).mean(axis=(1, 2, 3), keepdims=True)
        x = (grouped * jax.lax.rsqrt(variance + 1e-5)).reshape(x.shape)
        return x * scale.reshape(-1, 1, 1, 1) + bias.reshape(-1, 1, 1, 1)


def convolve(
    x: jax.Array, kernel: jax.Array, size: int, method: Method = "auto", stride: int = 1
) -> jax.Array:
    """A valid convolution.

    Args:
        x: f32[c, h, w, B].
        kernel: f32[size * size * c, F], rows in the order (row, column, channel).
        size: static.
        method: ``patches`` writes it as patches times a matrix; ``native`` leaves it to XLA, which
            makes a grouped convolution of it where clients have weights of their own: 7 to 20
            times slower on a CPU, 1.7 times on an H200. ``auto`` takes patches on both, and native
            where the default backend is something else.
        stride: static, of rows and columns.

    Returns:
        f32[F, (h - size) // stride + 1, (w - size) // stride + 1, B].
    """
    if method == "auto":
        method = "patches" if jax.default_backend() in ("cpu", "gpu") else "native"
    if method == "patches":
        return _convolve_patches(x, kernel, size, stride, x.shape[1:3])
    weights = kernel.reshape(size, size, x.shape[0], -1)
    layout = ("CHWN", "HWIO", "CHWN")
    return jax.lax.conv_general_dilated(
        x, weights, (stride, stride), "VALID", dimension_numbers=layout
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve_patches(
    x: jax.Array, kernel: jax.Array, size: int, stride: int, sides: tuple[int, int]
) -> jax.Array:
    return _convolve_forward(x, kernel, size, stride, sides)[0]


def _convolve_forward(x, kernel, size, stride, sides):
    patches = _patches(x, size, stride)
    out_h, out_w = ((side - size) // stride + 1 for side in sides)
    out = _product(kernel, patches).reshape(-1, out_h, out_w, x.shape[-1])
    return out, (patches, kernel)


def _convolve_backward(size, stride, sides, residuals, gradient):
    patches, kernel = residuals
    features, out_h, out_w, batch = gradient.shape
    gradient = gradient.reshape(features, -1)
    d_kernel = jnp.einsum("ks,fs->kf", patches, gradient)
    # unused, and so never computed, for the first layer
    d_patches = _product(kernel.T, gradient)
    parts = d_patches.reshape(size, size, -1, out_h, out_w, batch)
    d_x = jnp.zeros((parts.shape[2], *sides, batch), parts.dtype)
    for i in range(size):
        for j in range(size):
            if stride == 1:  # the same as below, which a CPU plays as a scatter
                window = d_x[:, i : i + out_h, j : j + out_w]
                d_x = jax.lax.dynamic_update_slice(d_x, window + parts[i, j], (0, i, j, 0))
            else:
                rows = slice(i, i + stride * (out_h - 1) + 1, stride)
                columns = slice(j, j + stride * (out_w - 1) + 1, stride)
                d_x = d_x.at[:, rows, columns].add(parts[i, j])
    return d_x, d_kernel


def _patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """f32[c, h, w, B] -> f32[size * size * c, positions * B], rows as those of a kernel."""
    channels, h, w, batch = x.shape
    # columns first, then rows: two concatenations of few long pieces, not one of many
    columns = jnp.concatenate([x[:, :, j : w - size + 1 + j : stride] for j in range(size)])
    rows = jnp.concatenate([columns[:, i : h - size + 1 + i : stride] for i in range(size)])
    positions = rows.shape[1] * rows.shape[2]
    return rows.reshape(size * size * channels, positions * batch)


@jax.custom_batching.custom_vmap
def _product(kernel: jax.Array, patches: jax.Array) -> jax.Array:
    """f32[K, F], f32[K, s] -> f32[F, s]."""
    return jnp.einsum("kf,ks->fs", kernel, patches)


@_product.def_vmap
def _product_batched(axis_size, in_batched, kernel, patches):
    # one kernel for all clients would make XLA move the patches, which are a hundred times larger
    kernel_batched, patches_batched = in_batched
    if not kernel_batched:
        kernel = jnp.broadcast_to(kernel[None], (axis_size, *kernel.shape))
    if not patches_batched:
        patches = jnp.broadcast_to(patches[None], (axis_size, *patches.shape))
    return jnp.einsum("...kf,...ks->...fs", kernel, patches), True


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum over 2x2 blocks of f32[F, h, w, B]; odd edges are dropped.

    The gradient goes to the first largest value of a block. XLA's reduce-window is many times
    slower on a CPU, forward and back, and so is the gradient that JAX derives for this one.
    """
    return _pool(x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2])


@jax.custom_vjp
def _pool(x: jax.Array) -> jax.Array:
    return functools.reduce(_larger, _quarters(x))


def _pool_forward(x):
    a, b, c, d = _quarters(x)
    first, second = jnp.where(b > a, 1, 0), jnp.where(d > c, 3, 2)
    winner = jnp.where(_larger(c, d) > _larger(a, b), second, first).astype(jnp.int8)
    return _pool(x), winner


def _pool_backward(winner, gradient):
    features, h, w, batch = gradient.shape
    place = jnp.arange(4, dtype=jnp.int8).reshape(1, 1, 2, 1, 2, 1)
    chosen = winner[:, :, None, :, None, :] == place
    spread = jnp.where(chosen, gradient[:, :, None, :, None, :], 0.0)
    return (spread.reshape(features, 2 * h, 2 * w, batch),)


def _quarters(x: jax.Array) -> list[jax.Array]:
    return [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    # not maximum: that looks for NaNs, which takes twice as long on a CPU
    return jnp.where(b > a, b, a)


_convolve_patches.defvjp(_convolve_forward, _convolve_backward)
_pool.defvjp(_pool_forward, _pool_backward)
