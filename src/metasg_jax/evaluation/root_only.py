"""The control that is easiest to forget: the same model trained on the server's images alone."""

import functools

import jax
import optax

from metasg_jax.post_defenses import undefended
from metasg_jax.post_defenses.root import cross_entropy
from metasg_jax.types import Key, Model


@functools.partial(jax.jit, static_argnames=("model", "steps"))
def train_on_root(key: Key, model: Model, root_x, root_y, steps: int = 500) -> jax.Array:
    """Parameters f32[d] of a fresh model after so many steps of Adam (0.003) on all root images.

    No client has touched it, so no attacker has, and its score hardly depends on the type.

    Args:
        key: consumed.
        model: static.
        root_x: f32[R, h, w, c].
        root_y: i32[R].
        steps: static.
    """
    optimizer = optax.adam(0.003)
    params = model.init(key)

    def loss(params):
        return cross_entropy(model, undefended(model, params), root_x, root_y)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return model.ravel(params)
