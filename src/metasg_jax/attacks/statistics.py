"""Moments of the visible updates, as attacks with knowledge of the honest clients use them."""

import jax
import jax.numpy as jnp

from metasg_jax.attacks.base import AttackContext
from metasg_jax.rows import weighted_sum


def honest_mean(ctx: AttackContext) -> jax.Array:
    """Mean f32[d] of the visible updates that the mastermind does not control.

    Falls back to the attackers' own rows where it controls every visible row, and to 0 where it
    sees none: both happen in rounds that sample a malicious majority.
    """
    return weighted_sum(_reference_weights(ctx), ctx.visible)


def honest_moments(ctx: AttackContext) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation (ddof 0), each f32[d], over the same rows as :func:`honest_mean`.

    The deviation is 0 where there is a single row to look at.
    """
    weights = _reference_weights(ctx)
    mean = weighted_sum(weights, ctx.visible)
    # two passes: the one-pass formula cancels in float32 when clients agree
    variance = weighted_sum(weights, (ctx.visible - mean[None]) ** 2)
    return mean, jnp.sqrt(variance)


def _reference_weights(ctx: AttackContext) -> jax.Array:
    seen = ctx.weights > 0
    honest = seen & ~ctx.colluders
    rows = jnp.where(honest.any(), honest, seen).astype(jnp.float32)
    return rows / jnp.maximum(rows.sum(), 1.0)
