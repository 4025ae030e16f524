"""How each sampled client trains: one row a client, the honest client's values as defaults."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from metasg_jax.struct import Struct


class LocalPlan(Struct):
    """Local training, a row per client. Honest values make every field a no-op.

    A client minimises ``sign CE + proximal / 2 |w - w_g|^2 - stealth cos(w_g - w, reference)`` by
    SGD from the global model; after each step its update is projected to ``radius``. The proximal
    and the stealth term act from the second step on: at the first the update is still 0.

    Attributes:
        label_map: i32[n, C], what each label is taken for (label flipping).
        poison_class: f32[n, C], 1 for the classes whose images may be stamped.
        fraction: f32[n] in [0, 1], share of the batch that is stamped.
        trigger_mask: f32[n, h, w, c] in [0, 1]; None where nobody stamps.
        trigger_pattern: f32[n, h, w, c] in [0, 1]; None where nobody stamps.
        target: i32[n], the label of a stamped image.
        sign: f32[n], 1 descends the loss, -1 climbs it.
        proximal: f32[n] >= 0.
        stealth: f32[n] >= 0, weight of the cosine to ``reference``.
        reference: f32[n, d], what a second pass hides behind; None elsewhere (then
            ``stealth`` is not read).
        lr: f32[n] > 0.
        radius: f32[n], +inf for no projection; None where nobody projects.
        steps: i32[n] >= 1.
    """

    label_map: jax.Array
    poison_class: jax.Array
    fraction: jax.Array
    trigger_mask: jax.Array | None
    trigger_pattern: jax.Array | None
    target: jax.Array
    sign: jax.Array
    proximal: jax.Array
    stealth: jax.Array
    reference: jax.Array | None
    lr: jax.Array
    radius: jax.Array | None
    steps: jax.Array


def honest_plan(
    n: int, image_shape, num_classes: int, lr, steps: int | jax.Array, uses: Sequence[str] = ()
) -> LocalPlan:
    """The plan of ``n`` honest clients: plain SGD with learning rate ``lr`` for ``steps`` steps.

    Args:
        n: rows.
        image_shape: (h, w, c).
        num_classes: C.
        lr: learning rate.
        steps: S.
        uses: which of ``trigger``, ``radius`` some attack of the game fills; the others stay None
            and cost nothing.
    """
    classes = jnp.arange(num_classes, dtype=jnp.int32)
    trigger = jnp.zeros((n, *image_shape), jnp.float32) if "trigger" in uses else None
    return LocalPlan(
        label_map=jnp.broadcast_to(classes[None], (n, num_classes)),
        poison_class=jnp.zeros((n, num_classes), jnp.float32),
        fraction=jnp.zeros((n,), jnp.float32),
        trigger_mask=trigger,
        trigger_pattern=trigger,
        target=jnp.zeros((n,), jnp.int32),
        sign=jnp.ones((n,), jnp.float32),
        proximal=jnp.zeros((n,), jnp.float32),
        stealth=jnp.zeros((n,), jnp.float32),
        reference=None,
        lr=jnp.full((n,), lr, jnp.float32),
        radius=jnp.full((n,), jnp.inf, jnp.float32) if "radius" in uses else None,
        steps=jnp.full((n,), steps, jnp.int32),
    )


def merge_rows(rows: jax.Array, new, old):
    """Takes the rows (leading axis) marked in bool[n] from pytree ``new``, the others from ``old``.

    What an attacker plans or crafts reaches the server through this alone: it can't touch the rows
    of clients that it does not control.
    """
    return jax.tree.map(
        lambda a, b: jnp.where(rows.reshape(rows.shape + (1,) * (b.ndim - 1)), a, b), new, old
    )
