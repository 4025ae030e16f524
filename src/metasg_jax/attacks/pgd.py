"""The projected-gradient backdoor (Wang et al., NeurIPS 2020)."""

import jax.numpy as jnp

from metasg_jax.attacks.bfl import BFL
from metasg_jax.struct import field


class PGD(BFL):
    """As :class:`~metasg_jax.attacks.BFL`, with the update projected to a ball after each step.

    Training takes more steps than an honest client's: one row is trained so and sent by all. The
    factor is applied after the projection ("PGD with replacement" where it is above 1).

    Attributes:
        fraction: in [0, 1], share of the batch's images of other classes that is stamped.
        boost: factor on the projected update.
        replace_model: as in :class:`~metasg_jax.attacks.BFL`.
        radius: positive, Euclidean, in the units of an update: about the norm of an honest one
            hides it. Literature values run from 0.08 to 10, by model and learning rate.
        steps: static, at least 1, of the local training.
    """

    radius: float = 0.5
    steps: int = field(static=True, default=5)
    uses = ("trigger", "radius")

    @property
    def second_pass_steps(self) -> int:
        """Its clients train apart."""
        return self.steps

    def plan(self, key, state, ctx, action):
        """Training on a stamped batch inside a ball around the global model."""
        plan, state, info = super().plan(key, state, ctx, action)
        steps = jnp.full_like(plan.steps, self.steps)
        radius = jnp.full_like(plan.lr, self.radius)
        return plan.replace(radius=radius, steps=steps), state, info
