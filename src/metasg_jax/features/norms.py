"""Lengths of updates, all of it and by layer."""

import jax.numpy as jnp

from metasg_jax.features.base import Rows, ServerData, stack

NAMES = ("norm", "norm_first", "norm_last", "norm_least", "norm_most")


def norms(rows: Rows, server: ServerData):
    """Log of the norm over the round's median norm; for layers the same, first, last, extremes.

    Costs nothing beside the products that :class:`~metasg_jax.features.base.Rows` holds.
    """
    whole = _log_ratio(rows.norms, rows.middle)
    parts = _log_ratio(rows.lengths, rows.middles[:, None])
    columns = dict(
        whole=whole, first=parts[0], last=parts[-1], least=parts.min(0), most=parts.max(0)
    )
    return stack(columns)


def _log_ratio(lengths, middle):
    return jnp.clip(jnp.log(jnp.maximum(lengths, 1e-6 * middle) / middle), -6.0, 6.0)
