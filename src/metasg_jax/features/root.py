"""Updates beside the one that the server trained on its own images."""

import jax.numpy as jnp

from metasg_jax.features.base import TINY, Rows, ServerData, stack
from metasg_jax.numerics import matmul, safe_sqrt

NAMES = (
    "root_cosine", "root_norm", "root_cosine_first", "root_cosine_last", "root_cosine_least",
    "root_cosine_most", "root_projection",
)  # fmt: skip


def root(rows: Rows, server: ServerData):
    """Cosines to the root update, whole and by layer; norms and projection relative to its norm.

    One pass over n x d.
    """
    parts, total = [], jnp.zeros(rows.norms.shape, jnp.float32)

    def along(spans):
        """Products with the root update and its square, within these stretches."""
        mine = [rows.root[span.start : span.stop] for span in spans]
        rest = [rows.updates[:, span.start : span.stop] for span in spans]
        product = sum(
            (matmul(u, r) for u, r in zip(rest, mine, strict=True)),
            jnp.zeros(rows.norms.shape, jnp.float32),
        )
        return product, sum((matmul(r, r) for r in mine), jnp.zeros((), jnp.float32))

    for layer, lengths in zip(server.layout.layers, rows.lengths, strict=True):
        product, square = along(layer)
        parts.append(product / jnp.maximum(lengths * safe_sqrt(square), TINY))
        total = total + product
    total = total + along(server.layout.rest)[0]
    parts = jnp.stack(parts)
    ratio = jnp.clip(jnp.log(rows.middle / rows.root_norm), -6.0, 6.0)
    columns = dict(
        cosine=total / jnp.maximum(rows.norms * rows.root_norm, TINY),
        norm=jnp.broadcast_to(ratio, rows.norms.shape),
        first=parts[0],
        last=parts[-1],
        least=parts.min(axis=0),
        most=parts.max(axis=0),
        projection=jnp.clip(total / rows.root_norm**2, -6.0, 6.0),
    )
    return stack(columns)
