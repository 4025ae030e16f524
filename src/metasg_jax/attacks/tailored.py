"""Untargeted attack tailored to the server's rule, by search and gradient through it."""

import jax.numpy as jnp

from metasg_jax.attacks.base import AttackBase, seen
from metasg_jax.attacks.statistics import honest_moments
from metasg_jax.attacks.through_rule import climb, factors
from metasg_jax.numerics import safe_sqrt
from metasg_jax.struct import field


class Tailored(AttackBase):
    """All colluders send the row that raises the loss most once the rule has made of it what it
    does, a round at a time.

    It starts from the best of ``mean - gamma p`` (Shejwalkar and Houmansadr, NDSS 2021, who search
    gamma for a given rule), with p the honest mean, its sign or the honest deviation, all as long
    as the mean; goes on by gradient through the rule; and judges a row by the cross-entropy that
    images of its own clients have after the round, instead of by the distance it moves the update.
    Greedy: it looks no further than the round. A rule that draws random numbers draws others here.

    Attributes:
        max_scale: gamma lies in [1 / max_scale, max_scale], above 1.
        tries: gammas of each direction (static).
        steps: of gradient ascent (static).
    """

    max_scale: float = 10.0
    tries: int = field(static=True, default=8)
    steps: int = field(static=True, default=5)
    knowledge = "rule"

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d], every row the same."""
        mean, deviation = honest_moments(ctx)
        length = safe_sqrt(jnp.sum(mean**2))

        def as_long(direction):
            return direction * (length / jnp.maximum(safe_sqrt(jnp.sum(direction**2)), 1e-12))

        directions = jnp.stack([mean, as_long(jnp.sign(mean)), as_long(deviation)])
        gammas = factors(self.max_scale, self.tries)
        candidates = mean[None, None] - gammas[:, None, None] * directions[None]
        row = climb(
            key,
            ctx,
            candidates.reshape(-1, mean.shape[0]),
            lambda update: ctx.look(update, False),
            self.steps,
        )
        return jnp.broadcast_to(row[None], seen(ctx).shape), state, {}
