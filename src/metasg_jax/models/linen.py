"""A flax.linen module behind the :class:`~metasg_jax.types.Model` contract."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from metasg_jax.types import Key, Params


@dataclasses.dataclass(frozen=True)
class LinenModel:
    """A classifier made of a linen module that returns ``(logits, activations)``.

    The module's last layer must be called ``head``: observations read it.

    Attributes:
        module: called as ``module(x, clip)`` with x f32[B, h, w, c] and clip f32[U] or None.
        input_shape: (h, w, c).
        num_classes: C.
        shift: of each channel, what is taken from an image before the module sees it; () is 0.
        scale: of each channel, what the difference is divided by; () is 1.
    """

    module: nn.Module
    input_shape: tuple[int, ...]
    num_classes: int
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def init(self, key: Key) -> Params:
        """Draws parameters. ``key`` is consumed."""
        return self.module.init(key, jnp.zeros((1, *self.input_shape), jnp.float32))["params"]

    def apply(self, params: Params, x: jax.Array, clip: jax.Array | None = None) -> jax.Array:
        """Logits f32[B, C] of images f32[B, h, w, c]; ``clip`` f32[U] bounds the hidden units."""
        return self._call(params, x, clip)[0]

    def activations(self, params: Params, x: jax.Array, clip: jax.Array | None = None) -> jax.Array:
        """Hidden units f32[B, U], bounded by ``clip``; a channel's is its maximum over space."""
        return self._call(params, x, clip)[1]

    def _call(self, params: Params, x: jax.Array, clip: jax.Array | None) -> Any:
        if self.shift:
            x = x - jnp.asarray(self.shift, x.dtype)[None, None, None]
        if self.scale:
            x = x / jnp.asarray(self.scale, x.dtype)[None, None, None]
        return self.module.apply({"params": params}, x, clip)

    def ravel(self, params: Params) -> jax.Array:
        """The parameters as one vector f32[d]."""
        return ravel_pytree(params)[0]

    def unravel(self, w: jax.Array) -> Params:
        """The inverse of :meth:`ravel`."""
        return _unraveler(self)(w)

    @property
    def images_at_once(self) -> int | None:
        """Most images that clients train on side by side, a matter of speed only; None for all."""
        on_cpu = jax.default_backend() == "cpu"
        return getattr(self.module, "images_at_once", None) if on_cpu else None

    @property
    def num_params(self) -> int:
        """Number of parameters, d."""
        return sum(leaf.size for leaf in jax.tree.leaves(_abstract_params(self)))

    @property
    def num_units(self) -> int:
        """Number of hidden units, U."""
        x = jax.ShapeDtypeStruct((1, *self.input_shape), jnp.float32)
        return jax.eval_shape(self.activations, _abstract_params(self), x).shape[-1]


@functools.lru_cache
def _abstract_params(model: LinenModel) -> Params:
    return jax.eval_shape(model.init, jax.random.key(0))


@functools.lru_cache
def _unraveler(model: LinenModel):
    # concrete zeros even when first called under a trace: the closure outlives that trace
    with jax.ensure_compile_time_eval():
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), _abstract_params(model))
        return ravel_pytree(zeros)[1]
