"""The honest rows seen along a perturbation, as Min-Max and Min-Sum need them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metasg_jax.attacks.base import AttackContext, seen
from metasg_jax.attacks.statistics import centred_distances, honest_moments, reference_rows
from metasg_jax.numerics import matmul

PERTURBATIONS = ("unit", "sign", "std")


class Cloud(NamedTuple):
    """What distances from ``mean - gamma p`` to the honest rows are made of.

    ``|mean - gamma p - u_i|^2 = squares_i + 2 gamma along_i + gamma^2 length``.

    Attributes:
        mean: f32[d] of the honest rows.
        direction: f32[d], p.
        chosen: bool[n], which rows stand for the honest ones.
        distances: f32[n, n], squared, between these rows; 0 elsewhere.
        squares: f32[n], squared distances to the mean; 0 elsewhere.
        along: f32[n], scalar products of u_i - mean with p; 0 elsewhere.
        length: f32[], |p|^2.
    """

    mean: jax.Array
    direction: jax.Array
    chosen: jax.Array
    distances: jax.Array
    squares: jax.Array
    along: jax.Array
    length: jax.Array


def cloud(ctx: AttackContext, perturbation: str) -> Cloud:
    """The rows of :func:`~metasg_jax.attacks.statistics.reference_rows` along a perturbation.

    Args:
        ctx: of a craft.
        perturbation: ``unit`` (mean / |mean|), ``sign`` (of the mean) or ``std`` (the deviation per
            coordinate); static.
    """
    rows, chosen = reference_rows(ctx)
    mean, std = honest_moments(ctx)
    unit = mean / jnp.maximum(jnp.sqrt(jnp.sum(mean**2)), 1e-12)
    direction = {"unit": unit, "sign": jnp.sign(mean), "std": std}[perturbation]
    centred = jnp.where(chosen[:, None], rows - mean[None], 0.0)
    return Cloud(
        mean=mean,
        direction=direction,
        chosen=chosen,
        distances=centred_distances(rows, chosen, mean),
        squares=jnp.sum(centred**2, axis=1),
        along=matmul(centred, direction),
        length=jnp.sum(direction**2),
    )


def largest_gamma(length: jax.Array, along: jax.Array, rest: jax.Array) -> jax.Array:
    """The larger root of ``length g^2 + 2 along g + rest``, with ``rest <= 0``: 0 or more."""
    root = jnp.sqrt(jnp.maximum(along**2 - length * rest, 0.0))
    return jnp.maximum(root - along, 0.0) / jnp.maximum(length, 1e-30)


def crafted_rows(ctx: AttackContext, seen_from_mean: Cloud, gamma: jax.Array) -> jax.Array:
    """Rows f32[n, d], every row ``mean - gamma p``."""
    row = seen_from_mean.mean - gamma * seen_from_mean.direction
    return jnp.broadcast_to(row[None], seen(ctx).shape)
