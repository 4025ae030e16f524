"""What a deployed model does on the server's root images."""

import jax
import jax.numpy as jnp
import optax

from metasg_jax.types import Deployed, Model


def accuracy(model: Model, deployed: Deployed, x: jax.Array, y: jax.Array) -> jax.Array:
    """Share f32[] of images f32[R, h, w, c] that get their label i32[R]."""
    return agreement(model.apply(deployed.params, x, deployed.clip), y)


def agreement(logits: jax.Array, y: jax.Array) -> jax.Array:
    """Share f32[] of logits f32[R, C] whose largest is at the label."""
    return (jnp.argmax(logits, axis=-1) == y).mean()


def cross_entropy(model: Model, deployed: Deployed, x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cross-entropy f32[] of images f32[R, h, w, c] with labels i32[R]."""
    logits = model.apply(deployed.params, x, deployed.clip)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
