"""The last layer of a raveled model or update: the part of it that observations look at."""

import jax
import jax.numpy as jnp

from metasg_jax.types import Model


def flat_head(model: Model, w: jax.Array) -> jax.Array:
    """Its matrix and biases, raveled: f32[P]."""
    head = model.unravel(w)["head"]
    return jnp.concatenate([head["kernel"].reshape(-1), head["bias"]])


def head_bias(model: Model, update: jax.Array) -> jax.Array:
    """Its biases, one a class: f32[C]."""
    return model.unravel(update)["head"]["bias"]
