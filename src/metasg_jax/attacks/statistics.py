"""What attacks compute from the updates that they see: moments, distances."""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.geometry import products
from metasg_jax.attacks.base import AttackContext, seen
from metasg_jax.numerics import safe_sqrt, weighted_sum


def reference_rows(ctx: AttackContext) -> tuple[jax.Array, jax.Array]:
    """The rows that stand for the honest clients, and which those are.

    They are the visible rows that the mastermind does not control. Where it sees none of these, its
    own rows stand in: so it is with ``knowledge = "own"``, when colluders know what they would have
    sent honestly and no more (the partial knowledge of the literature), and in rounds that sample
    malicious clients only. There may be none at all.

    Returns:
        (f32[n, d] with zeros elsewhere, bool[n]).
    """
    there = ctx.weights > 0
    honest = there & ~ctx.colluders
    chosen = jnp.where(honest.any(), honest, there)
    # select, don't only weigh: 0 * NaN is NaN
    return jnp.where(chosen[:, None], seen(ctx), 0.0), chosen


def honest_mean(ctx: AttackContext) -> jax.Array:
    """Mean f32[d] of the :func:`reference_rows`; 0 where there are none."""
    rows, chosen = reference_rows(ctx)
    return weighted_sum(_shares(chosen), rows)


def honest_moments(ctx: AttackContext) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation (ddof 0), each f32[d], of the :func:`reference_rows`.

    The deviation is 0 where there is a single row to look at.
    """
    rows, chosen = reference_rows(ctx)
    weights = _shares(chosen)
    mean = weighted_sum(weights, rows)
    # two passes: the one-pass formula cancels in float32 when clients agree
    variance = weighted_sum(weights, (rows - mean[None]) ** 2)
    return mean, safe_sqrt(variance)


def centred_distances(rows: jax.Array, chosen: jax.Array, centre: jax.Array) -> jax.Array:
    """Squared distances f32[n, n] between the chosen rows of f32[n, d]; 0 where one is not chosen.

    Taken around ``centre`` f32[d], a point near them, so that digits are not lost.
    """
    gram = products(jnp.where(chosen[:, None], rows - centre[None], 0.0))
    squares = jnp.diagonal(gram)
    distances = jnp.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0.0)
    return jnp.where(chosen[:, None] & chosen[None, :], distances, 0.0)


def _shares(chosen: jax.Array) -> jax.Array:
    return chosen / jnp.maximum(chosen.sum(), 1)
