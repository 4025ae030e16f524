"""Which of a matrix's inputs an update writes to: a trigger shows in those that it lights up."""

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.aggregators.order import medians
from metasg_jax.features.base import TINY, Rows, ServerData
from metasg_jax.features.layout import Layout, Matrix

_KINDS = tuple(
    f"{kind}_{where}" for kind in ("peak", "divergence", "excess") for where in ("first", "most")
)
NAMES = tuple(f"input_{kind}" for kind in _KINDS)
ROOT_NAMES = tuple(f"root_input_{kind}" for kind in _KINDS)
_FLOOR = 0.1
"""Part of an even share below which no input counts as a surprise: nobody writes to it."""


def inputs(rows: Rows, server: ServerData):
    """A row's energy by input beside the round's median client: see :func:`_apart`."""
    every = _every_share(rows.updates, server.layout)
    cuts = np.cumsum([matrix.inputs for matrix in server.layout.matrices])[:-1]
    # one selection for all matrices
    usual = jnp.split(medians(jnp.concatenate(every, axis=1), rows.present), cuts)
    return _apart(server.layout, every, usual)


def root_inputs(rows: Rows, server: ServerData):
    """The same beside the server's own update, which no client can move."""
    usual = [shares[0] for shares in _every_share(rows.root[None], server.layout)]
    return _apart(server.layout, _every_share(rows.updates, server.layout), usual)


def _apart(layout: Layout, every: list[jax.Array], usual: list[jax.Array]) -> jax.Array:
    """How far the matrices' shares f32[n, inputs] lie from the usual ones, f32[inputs] each.

    ``peak``: the largest log ratio. ``divergence``: Kullback and Leibler's. ``excess``: what lies
    above three times the usual. Of the first matrix, and the most over matrices.
    """
    columns = {kind: [] for kind in ("peak", "divergence", "excess")}
    for matrix, shares, normal in zip(layout.matrices, every, usual, strict=True):
        normal, floor = normal[None], _FLOOR / matrix.inputs
        ratio = jnp.log((shares + floor) / (normal + floor))
        columns["peak"].append(ratio.max(axis=1))
        columns["divergence"].append((shares * ratio).sum(axis=1))
        columns["excess"].append(jnp.maximum(shares - 3 * normal, 0.0).sum(axis=1))
    found = [jnp.stack(parts) for parts in columns.values()]
    ends = [end for parts in found for end in (parts[0], parts.max(axis=0))]
    return jnp.clip(jnp.stack(ends, axis=1), -8.0, 8.0)


def _every_share(rows: jax.Array, layout: Layout) -> list[jax.Array]:
    """:func:`_shares` of each matrix of the layout, in rows f32[n, d]: one pass over them."""
    return [_shares(rows[:, m.span.start : m.span.stop], m) for m in layout.matrices]


def _shares(rows: jax.Array, matrix: Matrix) -> jax.Array:
    """Shares f32[n, inputs] of the squared entries of rows f32[n, size]; 0 for a row that is 0."""
    shape = (matrix.inputs, -1) if matrix.inputs_first else (-1, matrix.inputs)
    squares = rows.reshape(rows.shape[0], *shape) ** 2
    energy = squares.sum(axis=2 if matrix.inputs_first else 1)
    return energy / jnp.maximum(energy.sum(axis=1, keepdims=True), TINY)
