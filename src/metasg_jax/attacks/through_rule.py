"""Crafting a row through the server's rule: what the rule would make of it, and what that does."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from metasg_jax.attacks.base import AttackContext, seen
from metasg_jax.attacks.statistics import honest_mean
from metasg_jax.numerics import safe_sqrt
from metasg_jax.types import Key, Received

_TINY = 1e-12


def aggregate_with(key: Key, ctx: AttackContext, row: jax.Array) -> jax.Array:
    """The rule's update f32[d] if all clients of the attack send ``row`` f32[d].

    The rule turns its knobs to its own fields and begins afresh: the attacker knows the rule, not
    what the server remembers or is about to do. For the server's own update, which it never sees,
    the honest mean stands in.

    Raises:
        ValueError: where the attack does not know the rule.
    """
    if ctx.rule is None:
        raise ValueError("the rule is not known: an attack that needs it has knowledge = 'rule'")
    rows = jnp.where(ctx.malicious[:, None], row[None], seen(ctx))
    n, d = rows.shape
    received = Received(
        updates=rows,
        weights=ctx.weights,
        client_ids=jnp.arange(n, dtype=jnp.int32),
        w_global=ctx.w_global,
        root_update=honest_mean(ctx) if ctx.rule.needs_root else None,
        round=ctx.round,
    )
    return ctx.rule(key, ctx.rule.init(n, d), received)[0]


def climb(
    key: Key,
    ctx: AttackContext,
    candidates: jax.Array,
    gain: Callable[[jax.Array], jax.Array],
    steps: int,
) -> jax.Array:
    """The best of ``candidates``, improved by gradient ascent through the rule.

    A step goes along the gradient by a share of the row's length, a quarter at first; one that does
    not pay is not taken, and the next is half as long. What the rule selects or cuts off has no
    gradient: there the candidate stays as it is.

    Args:
        key: for the rule; the same throughout, so that rows are compared under the same luck.
        ctx: of a craft, with the rule.
        candidates: f32[J, d].
        gain: update f32[d] -> f32[], what the attacker earns by it; not finite counts as nothing.
        steps: static.

    Returns:
        f32[d].
    """
    # raw, because a key is taken once, and every row is to have the same luck
    raw, kind = jax.random.key_data(key), jax.random.key_impl(key)

    def earn(row):
        return gain(aggregate_with(jax.random.wrap_key_data(raw, impl=kind), ctx, row))

    def value(row):
        earned = earn(row)
        return jnp.where(jnp.isfinite(earned), earned, -jnp.inf)

    # one after the other: side by side they would hold J times a round's rows
    earned = jax.lax.map(value, candidates)
    best = jnp.argmax(earned)

    def moved(row, share):
        ascent = jax.grad(earn)(row)
        length = safe_sqrt(jnp.sum(ascent**2))
        size = share * safe_sqrt(jnp.sum(row**2)) / jnp.maximum(length, _TINY)
        return jnp.where(jnp.isfinite(size * ascent), row + size * ascent, row)

    return improve(candidates[best], earned[best], value, moved, steps)


def improve(
    start: jax.Array,
    worth: jax.Array,
    value: Callable[[jax.Array], jax.Array],
    moved: Callable[[jax.Array, jax.Array], jax.Array],
    steps: int,
) -> jax.Array:
    """``start``, or the best that steps from it lead to: one that does not pay is not taken, and
    the next is half as long.

    Args:
        start: any shape.
        worth: f32[], ``value(start)``.
        value: what a point is worth, f32[]; a step to what is not a number is not taken.
        moved: (point, share f32[]) -> another point; the share is a quarter at first.
        steps: static.

    Returns:
        A point of the shape of ``start``.
    """

    def step(carry, _):
        point, at, share = carry
        trial = moved(point, share)
        there = value(trial)
        better = there > at
        point, at = jnp.where(better, trial, point), jnp.where(better, there, at)
        return (point, at, jnp.where(better, share, share / 2)), None

    first = (start, worth, jnp.float32(0.25))
    return jax.lax.scan(step, first, None, length=steps)[0][0]


def factors(largest: ArrayLike, count: int) -> jax.Array:
    """``count`` factors f32[count] from ``1 / largest`` to ``largest``, evenly on a log scale."""
    return jnp.asarray(largest) ** jnp.linspace(-1.0, 1.0, count, dtype=jnp.float32)
