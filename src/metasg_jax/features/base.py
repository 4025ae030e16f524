"""What feature families read: the rows of a round, and what a server has beside them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.geometry import products
from metasg_jax.aggregators.norms import median_norm
from metasg_jax.aggregators.presence import presence, usable_root
from metasg_jax.features.layout import Layout
from metasg_jax.rows import row_norms, safe_sqrt
from metasg_jax.struct import Struct, field
from metasg_jax.types import Received

TINY = 1e-12
MOST_IMAGES = 64
"""Root images that a family runs a model on, at most: what its forward passes cost."""


class ServerData(Struct):
    """What a server has beside the updates; nothing of it comes from a client.

    Attributes:
        root_x: f32[R, ...], its own images as ``apply`` takes them; None if it has none.
        root_y: i32[R], their labels; None if it has none.
        layout: static, where the layers lie in an update.
        apply: static, ``(w f32[d], x) -> logits f32[B, C]``; None if it can't run the model.
    """

    root_x: jax.Array | None
    root_y: jax.Array | None
    layout: Layout = field(static=True)
    apply: Callable[[jax.Array, jax.Array], jax.Array] | None = field(static=True, default=None)


class Rows(Struct):
    """A round's rows and what several families need of them, computed once.

    Attributes:
        updates: f32[n, d], absent rows 0.
        present: bool[n].
        norms: f32[n], 0 where absent.
        middle: f32[], the median norm of the present rows, never 0.
        grams: f32[n, n] scalar products within each layer of the layout.
        gram: f32[n, n], over all parameters.
        w_global: f32[d].
        root: f32[d], the server's own update, 0 where it has none.
        root_norm: f32[], never 0.
    """

    updates: jax.Array
    present: jax.Array
    norms: jax.Array
    middle: jax.Array
    grams: tuple[jax.Array, ...]
    gram: jax.Array
    w_global: jax.Array
    root: jax.Array
    root_norm: jax.Array


def rows_of(received: Received, layout: Layout) -> Rows:
    """Reads a round once: norms and, layer by layer, scalar products in blocks of columns."""
    present = presence(received)
    updates = jnp.where(present[:, None], received.updates, 0.0)

    def gram_of(spans):
        parts = [products(updates[:, span.start : span.stop]) for span in spans]
        return sum(parts[1:], parts[0])

    grams = tuple(gram_of(layer) for layer in layout.layers)
    gram = sum(grams[1:], grams[0])
    if layout.rest:
        gram = gram + gram_of(layout.rest)
    norms = jnp.where(present, row_norms(updates), 0.0)
    root = received.root_update
    root = jnp.zeros_like(received.w_global) if root is None else root
    root, _ = usable_root(root)
    return Rows(
        updates=updates,
        present=present,
        norms=norms,
        middle=jnp.maximum(median_norm(norms, present), TINY),
        grams=grams,
        gram=gram,
        w_global=received.w_global,
        root=root,
        root_norm=jnp.maximum(safe_sqrt(jnp.vdot(root, root)), TINY),
    )


def cosines_of(gram: jax.Array) -> jax.Array:
    """Cosines f32[n, n] from scalar products; 0 with a row that is 0."""
    norms = safe_sqrt(jnp.maximum(jnp.diagonal(gram), 0.0))
    return gram / jnp.maximum(norms[:, None] * norms[None, :], TINY)


def others(cosines: jax.Array, present: jax.Array) -> dict[str, jax.Array]:
    """Order statistics of each row's cosines to the other present rows, f32[n] each.

    Lowest, quartile, median, second highest, highest and mean. 0 where nobody else is present.
    """
    n = cosines.shape[0]
    theirs = present[None, :] & ~jnp.eye(n, dtype=bool)
    count = theirs.sum(axis=1)
    ordered = jnp.sort(jnp.where(theirs, cosines, jnp.inf), axis=1)

    def at(place):
        place = jnp.clip(place, 0, jnp.maximum(count - 1, 0))
        value = jnp.take_along_axis(ordered, place[:, None], axis=1)[:, 0]
        return jnp.where(count > 0, value, 0.0)

    mean = jnp.where(theirs, cosines, 0.0).sum(axis=1) / jnp.maximum(count, 1)
    return {
        "lowest": at(jnp.zeros_like(count)),
        "quartile": at(count // 4),
        "median": at(count // 2),
        "second": at(count - 2),
        "highest": at(count - 1),
        "mean": mean,
    }


def stack(columns: dict[str, Any]) -> jax.Array:
    """f32[n, k] of k columns f32[n]."""
    return jnp.stack(list(columns.values()), axis=1)
