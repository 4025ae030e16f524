"""Backdoor attack tailored to the server's rule, by search and gradient through it."""

import jax.numpy as jnp

from metasg_jax.attacks.base import seen
from metasg_jax.attacks.bfl import BFL
from metasg_jax.attacks.statistics import honest_mean
from metasg_jax.attacks.through_rule import climb, factors
from metasg_jax.numerics import weighted_sum
from metasg_jax.struct import field


class TailoredBFL(BFL):
    """Trains like :class:`BFL`; then all colluders send the row that brings stamped images closest
    to the target once the rule has made of it what it does, a round at a time.

    It starts from the best of ``s a`` and ``mean + s (a - mean)``, with a the mean of its own
    updates and ``mean`` the honest one, and goes on by gradient through the rule. A row is judged
    by the cross-entropy, towards the target, of stamped images of its own clients after the round.

    Attributes:
        fraction: see :class:`BFL`; ``boost`` and ``replace_model`` are not read.
        max_scale: s lies in [1 / max_scale, max_scale], above 1.
        tries: of s, for each of the two (static).
        steps: of gradient ascent (static).
    """

    max_scale: float = 10.0
    tries: int = field(static=True, default=8)
    steps: int = field(static=True, default=5)
    knowledge = "rule"

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d], every row the same."""
        own = ctx.malicious / jnp.maximum(ctx.malicious.sum(), 1)
        poisoned, mean = weighted_sum(own, seen(ctx)), honest_mean(ctx)
        scales = factors(self.max_scale, self.tries)[:, None]
        around = [scales * poisoned[None], mean[None] + scales * (poisoned - mean)[None]]
        row = climb(
            key,
            ctx,
            jnp.concatenate(around),
            lambda update: -ctx.look(update, True),
            self.steps,
        )
        return jnp.broadcast_to(row[None], seen(ctx).shape), state, {}
