"""What feature families read: the rows of a round, and what a server has beside them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.geometry import BLOCK, products
from metasg_jax.aggregators.order import medians
from metasg_jax.aggregators.presence import present_norms, present_rows, usable_root
from metasg_jax.features.layout import Layout
from metasg_jax.numerics import matmul, safe_sqrt
from metasg_jax.struct import Struct, field
from metasg_jax.types import Received

TINY = 1e-12
MOST_IMAGES = 64
"""Root images that a family runs a model on, at most: what its forward passes cost."""

MOST_ONE_BY_ONE = 16
"""Rows up to which products of long rows are taken row by row."""


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
        lengths: f32[L, n], norms within each layer of the layout.
        middles: f32[L], their medians over the present rows, never 0.
        grams: f32[L, n, n], scalar products within each layer.
        gram: f32[n, n], over all parameters.
        w_global: f32[d].
        root: f32[d], the server's own update, 0 where it has none.
        root_norm: f32[], never 0.
    """

    updates: jax.Array
    present: jax.Array
    norms: jax.Array
    middle: jax.Array
    lengths: jax.Array
    middles: jax.Array
    grams: jax.Array
    gram: jax.Array
    w_global: jax.Array
    root: jax.Array
    root_norm: jax.Array


def rows_of(received: Received, layout: Layout) -> Rows:
    """Reads a round once: norms and, layer by layer, scalar products."""
    updates, present = present_rows(received)

    def gram_of(spans):
        parts = [_products(updates[:, span.start : span.stop]) for span in spans]
        return sum(parts[1:], parts[0])

    grams = jnp.stack([gram_of(layer) for layer in layout.layers])
    gram = grams.sum(axis=0)
    if layout.rest:
        gram = gram + gram_of(layout.rest)
    norms = present_norms(received, present)
    lengths = _lengths(grams)
    middles = jnp.maximum(medians(jnp.vstack([norms[None], lengths]).T, present), TINY)
    root = received.root_update
    root = jnp.zeros_like(received.w_global) if root is None else root
    root, _ = usable_root(root)
    return Rows(
        updates=updates,
        present=present,
        norms=norms,
        middle=middles[0],
        lengths=lengths,
        middles=middles[1:],
        grams=grams,
        gram=gram,
        w_global=received.w_global,
        root=root,
        root_norm=jnp.maximum(safe_sqrt(matmul(root, root)), TINY),
    )


def _products(rows: jax.Array) -> jax.Array:
    """``rows @ rows.T``, f32[n, n]; of few long rows one by one: half the time on a CPU."""
    n, width = rows.shape
    if n > MOST_ONE_BY_ONE or width <= BLOCK:
        return products(rows)
    # a loop, because n products compile n times as long
    one_by_one = functools.partial(jax.lax.map, lambda row: matmul(rows, row))
    return jax.lax.platform_dependent(rows, cpu=one_by_one, default=products)


def _lengths(grams: jax.Array) -> jax.Array:
    """Norms f32[.., n] of the rows whose scalar products are f32[.., n, n]."""
    return safe_sqrt(jnp.maximum(jnp.diagonal(grams, axis1=-2, axis2=-1), 0.0))


def cosines_of(grams: jax.Array) -> jax.Array:
    """Cosines f32[.., n, n] from scalar products; 0 with a row that is 0."""
    norms = _lengths(grams)
    return grams / jnp.maximum(norms[..., :, None] * norms[..., None, :], TINY)


def others(cosines: jax.Array, present: jax.Array) -> dict[str, jax.Array]:
    """Order statistics f32[k, n] of each row's cosines f32[k, n, n] to the other present rows.

    Lowest, quartile, median, second highest, highest and mean. 0 where nobody else is present. One
    sort serves all k.
    """
    theirs = present[None, :] & ~jnp.eye(present.shape[0], dtype=bool)
    count = theirs.sum(axis=1)
    places = [jnp.zeros_like(count), count // 4, count // 2, count - 2, count - 1]
    places = jnp.clip(jnp.stack(places, axis=1), 0, jnp.maximum(count - 1, 0)[:, None])
    ordered = jnp.sort(jnp.where(theirs[None], cosines, jnp.inf), axis=2)
    found = jnp.take_along_axis(ordered, places[None], axis=2)
    found = jnp.where((count > 0)[None, :, None], found, 0.0)
    mean = jnp.where(theirs[None], cosines, 0.0).sum(axis=2) / jnp.maximum(count, 1)[None]
    names = ("lowest", "quartile", "median", "second", "highest")
    return {**{name: found[..., i] for i, name in enumerate(names)}, "mean": mean}


def stack(columns: dict[str, Any]) -> jax.Array:
    """f32[n, k] of k columns f32[n]."""
    return jnp.stack(list(columns.values()), axis=1)
