"""Local training of many clients at once, a pure function of their batches and plans."""

import functools

import jax
import jax.numpy as jnp
import optax

from metasg_jax.attacks.plan import LocalPlan
from metasg_jax.fl.axes import over
from metasg_jax.numerics import largest_divisor, matmul
from metasg_jax.types import Key, Model

# Keeps the cosine's gradient finite where the update is still zero; in units of the reference.
_STEALTH_SMOOTHING = 0.1


def cross_entropy(model: Model, params, x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cross-entropy of images f32[B, h, w, c] with labels i32[B]."""
    logits = model.apply(params, x).astype(jnp.float32)
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
    stamped = (
        jax.random.uniform(key, y.shape, jnp.float32) < plan.fraction[:, None, None] * eligible
    )
    y = jnp.where(stamped, plan.target[:, None, None], relabel(plan.label_map, y))
    mask = plan.trigger_mask[:, None, None] * stamped[..., None, None, None]
    x = x + mask * (plan.trigger_pattern[:, None, None] - x)
    return x, y


def local_updates(
    model: Model,
    w_global: jax.Array,
    x: jax.Array,
    y: jax.Array,
    plan: LocalPlan,
    precision: str = "float32",
) -> jax.Array:
    """Trains every client from the global model and returns what it would send.

    The first step shares the global weights between clients, so its forward pass is one product.
    Devices of the mesh's axis ``clients`` train a part of them each.

    Args:
        model: static; may bound how many images train at once (``model.images_at_once``).
        w_global: f32[d].
        x: f32[n, S, B, h, w, c]; S is the longest plan's number of steps.
        y: i32[n, S, B].
        plan: n rows; a client with fewer than S steps stops early.
        precision: static, see :class:`~metasg_jax.config.FLConfig`.

    Returns:
        f32[n, d], row i is ``w_global - w_i``.
    """
    train = functools.partial(_train, model, w_global, precision=precision)

    def in_parts(rows):
        n = len(rows[0])
        width = clients_at_once(model, n, x.shape[2])
        if width == n:
            return train(*rows)
        parts = jax.tree.map(lambda a: a.reshape(n // width, width, *a.shape[1:]), rows)
        return jax.lax.map(lambda part: train(*part), parts).reshape(n, -1)

    return over("clients", in_parts, (x, y, plan))


def clients_at_once(model: Model, n: int, batch_size: int) -> int:
    """How many of ``n`` clients train side by side; divides n, so that training compiles once."""
    most = getattr(model, "images_at_once", None)
    return n if most is None else largest_divisor(n, max(1, most // batch_size))


def _train(model: Model, w_global, x, y, plan: LocalPlan, precision: str) -> jax.Array:
    """:func:`local_updates` of clients side by side."""
    steps, shared, ravel = x.shape[1], model.unravel(w_global), jax.vmap(model.ravel)
    # the learning rate scales the loss, a number, and not its gradient, n x d of them
    rates = plan.lr * plan.sign

    def descent(params, x, y, rate):
        return jax.grad(lambda p: rate * _loss(model, p, x, y, precision))(params)

    moved = jax.vmap(descent, in_axes=(None, 0, 0, 0))(shared, x[:, 0], y[:, 0], rates)
    if steps == 1:
        return ravel(_confined(moved, plan.radius))

    def from_shared(tree):
        """``shared - tree``: what clients with these weights send, and the other way round."""
        return jax.tree.map(lambda w, p: w[None] - p, shared, tree)

    def step(params, k):
        # picked here, not scanned over: steps are the second axis, and need not become the first
        batch_x, batch_y = (jax.lax.dynamic_index_in_dim(a, k, 1, keepdims=False) for a in (x, y))
        downhill = jax.vmap(descent)(params, batch_x, batch_y, rates)
        pull = plan.lr * plan.proximal
        going = k < plan.steps
        if plan.reference is not None:
            hiding = jax.vmap(jax.grad(_cosine))(ravel(from_shared(params)), plan.reference)
            hiding = jax.vmap(model.unravel)((plan.lr * plan.stealth)[:, None] * hiding)
            downhill = jax.tree.map(jnp.add, downhill, hiding)
        # one pass over each array: the trees are never made one vector between steps
        moved = jax.tree.map(
            lambda w, p, g: p - g + _per_row(pull, p) * (w[None] - p), shared, params, downhill
        )
        if plan.radius is not None:
            moved = from_shared(_confined(from_shared(moved), plan.radius))
        return jax.tree.map(lambda a, b: jnp.where(_per_row(going, a), a, b), moved, params), None

    params = from_shared(_confined(moved, plan.radius))
    params, _ = jax.lax.scan(step, params, jnp.arange(1, steps))
    return ravel(from_shared(params))


def _loss(model: Model, params, x, y, precision: str) -> jax.Array:
    if precision == "bfloat16":
        params, x = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, x))
    # Said to accelerators only, which else choose for themselves: a CPU's products are float32
    # anyway, and the fast ones are left out as soon as it is said.
    silent = precision == "bfloat16" or jax.default_backend() == "cpu"
    with jax.default_matmul_precision("default" if silent else precision):
        return cross_entropy(model, params, x, y)


def _per_row(values: jax.Array, like: jax.Array) -> jax.Array:
    """[n] -> [n, 1, ..] of as many axes as ``like``."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _confined(updates, radius: jax.Array | None):
    """A tree of updates with leaves [n, ..], each client's scaled into a ball of its radius."""
    if radius is None:
        return updates
    squares = [jnp.sum(a.reshape(a.shape[0], -1) ** 2, axis=1) for a in jax.tree.leaves(updates)]
    norms = jnp.sqrt(sum(squares, jnp.zeros_like(radius)))
    factors = jnp.minimum(1.0, radius / jnp.maximum(norms, 1e-12))
    return jax.tree.map(lambda a: _per_row(factors, a) * a, updates)


def _cosine(update: jax.Array, reference: jax.Array) -> jax.Array:
    # smooth at zero: the gradient of a plain cosine is unbounded there
    scale = matmul(reference, reference)
    norm = jnp.sqrt(matmul(update, update) + _STEALTH_SMOOTHING**2 * scale)
    return matmul(update, reference) / (norm * jnp.sqrt(scale) + 1e-12)
