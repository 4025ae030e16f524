"""Local training of many clients at once, a pure function of their batches and plans."""

import jax
import jax.numpy as jnp
import optax

from metasg_jax.attacks.plan import LocalPlan
from metasg_jax.rows import row_norms
from metasg_jax.types import Key, Model

# Keeps the cosine's gradient finite where the update is still zero; in units of the reference.
_STEALTH_SMOOTHING = 0.1


def cross_entropy(model: Model, params, x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cross-entropy of images f32[B, h, w, c] with labels i32[B]."""
    logits = model.apply(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def poison(key: Key, plan: LocalPlan, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Relabels and stamps each client's batches as its plan says.

    Args:
        key: consumed.
        plan: n rows.
        x: f32[n, S, B, h, w, c] in [0, 1].
        y: i32[n, S, B].

    Returns:
        The same shapes.
    """
    relabel = jax.vmap(lambda table, labels: table[labels])
    if plan.trigger_mask is None or plan.trigger_pattern is None:
        return x, relabel(plan.label_map, y)
    eligible = relabel(plan.poison_class, y)
    stamped = jax.random.uniform(key, y.shape) < plan.fraction[:, None, None] * eligible
    y = jnp.where(stamped, plan.target[:, None, None], relabel(plan.label_map, y))
    mask = plan.trigger_mask[:, None, None] * stamped[..., None, None, None]
    x = x + mask * (plan.trigger_pattern[:, None, None] - x)
    return x, y


def local_updates(
    model: Model, w_global: jax.Array, x: jax.Array, y: jax.Array, plan: LocalPlan
) -> jax.Array:
    """Trains every client from the global model and returns what it would send.

    The first step shares the global weights between clients, so its forward pass is one product.

    Args:
        model: static.
        w_global: f32[d].
        x: f32[n, S, B, h, w, c]; S is the longest plan's number of steps.
        y: i32[n, S, B].
        plan: n rows; a client with fewer than S steps stops early.

    Returns:
        f32[n, d], row i is ``w_global - w_i``.
    """
    steps = x.shape[1]

    # the learning rate scales the loss, a number, and not its gradient, n x d of them
    rates = plan.lr * plan.sign

    def step_of(params, x, y, rate):
        return model.ravel(jax.grad(lambda p: rate * cross_entropy(model, p, x, y))(params))

    shared = model.unravel(w_global)
    first = jax.vmap(step_of, in_axes=(None, 0, 0, 0))(shared, x[:, 0], y[:, 0], rates)
    updates = _project(first, plan.radius)
    if steps == 1:
        return updates

    def step(updates, batch):
        k, x, y = batch
        params = jax.vmap(model.unravel)(w_global[None] - updates)
        moved = updates + jax.vmap(step_of)(params, x, y, rates)
        moved = moved - (plan.lr * plan.proximal)[:, None] * updates
        if plan.reference is not None:
            hiding = jax.vmap(jax.grad(_cosine))(updates, plan.reference)
            moved = moved + (plan.lr * plan.stealth)[:, None] * hiding
        moved = _project(moved, plan.radius)
        return jnp.where((k < plan.steps)[:, None], moved, updates), None

    rest = (jnp.arange(1, steps), x[:, 1:].swapaxes(0, 1), y[:, 1:].swapaxes(0, 1))
    return jax.lax.scan(step, updates, rest)[0]


def _project(updates: jax.Array, radius: jax.Array | None) -> jax.Array:
    if radius is None:
        return updates
    return updates * jnp.minimum(1.0, radius / jnp.maximum(row_norms(updates), 1e-12))[:, None]


def _cosine(update: jax.Array, reference: jax.Array) -> jax.Array:
    # smooth at zero: the gradient of a plain cosine is unbounded there
    scale = jnp.vdot(reference, reference)
    norm = jnp.sqrt(jnp.vdot(update, update) + _STEALTH_SMOOTHING**2 * scale)
    return jnp.vdot(update, reference) / (norm * jnp.sqrt(scale) + 1e-12)
