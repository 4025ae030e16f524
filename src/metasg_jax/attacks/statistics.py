"""Moments of the visible updates, as attacks with knowledge of the honest clients use them."""

import jax
import jax.numpy as jnp

from metasg_jax.attacks.base import AttackContext, seen
from metasg_jax.rows import weighted_sum


def honest_mean(ctx: AttackContext) -> jax.Array:
    """Mean f32[d] of the visible updates that the mastermind does not control.

    Falls back to the attackers' own rows where it controls every visible row, and to 0 where it
    sees none: both happen in rounds that sample a malicious majority.
    """
    weights, rows = _reference(ctx)
    return weighted_sum(weights, rows)


def honest_moments(ctx: AttackContext) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation (ddof 0), each f32[d], over the same rows as :func:`honest_mean`.

    The deviation is 0 where there is a single row to look at.
    """
    weights, rows = _reference(ctx)
    mean = weighted_sum(weights, rows)
    # two passes: the one-pass formula cancels in float32 when clients agree
    variance = weighted_sum(weights, (rows - mean[None]) ** 2)
    return mean, jnp.sqrt(variance)


def _reference(ctx: AttackContext) -> tuple[jax.Array, jax.Array]:
    there = ctx.weights > 0
    honest = there & ~ctx.colluders
    chosen = jnp.where(honest.any(), honest, there)
    weights = chosen / jnp.maximum(chosen.sum(), 1)
    # select, don't only weigh: 0 * NaN is NaN
    return weights, jnp.where(chosen[:, None], seen(ctx), 0.0)
