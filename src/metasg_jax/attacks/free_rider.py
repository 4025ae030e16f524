"""Free riders (Lin, Du and Liu, 2019; Fraboni, Vidal and Lorenzi, AISTATS 2021)."""

import jax
import jax.numpy as jnp

from metasg_jax.attacks.base import AttackBase, seen
from metasg_jax.numerics import row_norms


class FreeRider(AttackBase):
    """Each malicious client sends the global model back, or that and a little noise: no training.

    u_i = level |u| e_i / |e_i| with e_i standard normal, |u| the norm of its own honest update.

    Attributes:
        level: at least 0, of the noise relative to an honest update; 0 sends nothing at all.
    """

    level: float = 0.0
    knowledge = "own"

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d], different for each client. ``key`` is consumed."""
        honest = seen(ctx)
        noise = jax.random.normal(key, honest.shape, jnp.float32)
        scale = self.level * row_norms(honest) / jnp.maximum(row_norms(noise), 1e-12)
        return scale[:, None] * noise, state, {}
