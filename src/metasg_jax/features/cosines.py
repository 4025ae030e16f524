"""Directions of updates beside each other: colluders resemble each other more than others do."""

import jax.numpy as jnp

from metasg_jax.features.base import Rows, ServerData, cosines_of, others, stack
from metasg_jax.numerics import matmul

_KINDS = ("lowest", "quartile", "median", "second", "highest", "mean")
NAMES = (
    *(f"cosine_{kind}" for kind in _KINDS),
    *(f"cosine_last_{kind}" for kind in _KINDS),
    *(f"cosine_{kind}_{where}" for kind in ("highest", "mean") for where in ("least", "most")),
    "residual_second", "residual_highest", "residual_mean", "residual_share",
)  # fmt: skip


def cosines(rows: Rows, server: ServerData):
    """Sorted cosines to the other rows: over all parameters, the last layer, extremes over layers.

    Residuals are what is left of a row of equal length without the round's mean: where all move
    the same way, what two of them share beyond it stands out. Work is n x n beside the products.
    """
    # cosines are the products of rows of length 1; centring these needs no pass over d
    unit = cosines_of(rows.gram)
    share = rows.present / jnp.maximum(rows.present.sum(), 1)
    to_mean = matmul(unit, share)
    centred = unit - to_mean[:, None] - to_mean[None, :] + matmul(share, to_mean)
    sights = jnp.stack([unit, cosines_of(centred)])
    found = others(jnp.concatenate([sights, cosines_of(rows.grams)]), rows.present)
    columns = {kind: found[kind][0] for kind in _KINDS}
    columns |= {f"last_{kind}": found[kind][-1] for kind in _KINDS}
    for kind in ("highest", "mean"):
        columns[f"{kind}_least"] = found[kind][2:].min(axis=0)
        columns[f"{kind}_most"] = found[kind][2:].max(axis=0)
    columns |= {
        **{f"residual_{kind}": found[kind][1] for kind in ("second", "highest", "mean")},
        "residual_share": jnp.diagonal(centred),
    }
    return stack(columns)
