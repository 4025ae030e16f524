"""Hiding among the honest: sending a mixture of the own honest update and a crafted one."""

import jax
import jax.numpy as jnp

from metasg_jax.attacks.base import AttackContext

KNOBS = ("mix", "acting")


def mixed(ctx: AttackContext, crafted: jax.Array, action: jax.Array) -> jax.Array:
    """Rows f32[n, d]: ``honest + mix (crafted - honest)`` of those that act, honest of the others.

    Args:
        ctx: of a craft, with ``honest``.
        crafted: f32[n, d].
        action: f32[2 or more] in [-1, 1]: ``mix``, linear to [0, 1]; ``acting``, linear to [0, 1]:
            the share of its clients in this round that act, rounded up and at least one.

    Raises:
        ValueError: where the context has no honest updates.
    """
    if ctx.honest is None:
        raise ValueError("no honest updates: an attack that mixes them has trains_twice = True")
    mix, acting = (jnp.clip(action[:2], -1.0, 1.0) + 1) / 2
    most = jnp.ceil(acting * ctx.malicious.sum())
    acts = jnp.cumsum(ctx.malicious) <= jnp.maximum(most, 1)
    mixture = ctx.honest + mix * (crafted - ctx.honest)
    return jnp.where(acts[:, None], mixture, ctx.honest)
