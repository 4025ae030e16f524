"""Gaussian noise (Blanchard et al., NeurIPS 2017)."""

import jax

from metasg_jax.attacks.base import AttackBase, seen


class Gaussian(AttackBase):
    """Each malicious client sends noise in place of an update, N(0, sigma^2) in each coordinate.

    Its norm is about sigma sqrt(d): with d = 1e5 already 3 for a sigma of 0.01, which an honest
    update has.

    Attributes:
        sigma: positive; 200 in the paper.
    """

    sigma: float = 1.0
    knowledge = "own"

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d], different for each client. ``key`` is consumed."""
        return self.sigma * jax.random.normal(key, seen(ctx).shape, seen(ctx).dtype), state, {}
