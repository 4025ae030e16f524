"""A small shift in one direction, round after round (as in Baruch et al., NeurIPS 2019)."""

import jax
import jax.numpy as jnp

from metasg_jax.attacks.base import AttackBase, seen
from metasg_jax.numerics import row_norms


class ConstantShift(AttackBase):
    """Each malicious client adds the same direction to its own honest update, in every round.

    u_i + scale |u_i| v with a unit vector v drawn at the start: small enough to pass by norm, it
    adds up over rounds.

    Attributes:
        scale: positive, relative to the client's own norm.
    """

    scale: float = 0.5
    knowledge = "own"

    def init(self, n, d):
        """The direction f32[d], 0 before the first round."""
        return jnp.zeros((d,), jnp.float32)

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d]. ``key`` is consumed."""
        honest = seen(ctx)
        drawn = jax.random.normal(key, state.shape, jnp.float32)
        drawn = drawn / jnp.maximum(jnp.sqrt(jnp.sum(drawn**2)), 1e-12)
        direction = jnp.where(jnp.any(state != 0), state, drawn)
        return honest + self.scale * row_norms(honest)[:, None] * direction[None], direction, {}
