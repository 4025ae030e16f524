"""The reinforcement-learning attack (Li et al., NeurIPS 2022): three knobs, turned each round."""

import jax.numpy as jnp

from metasg_jax.attacks.base import AttackBase, seen
from metasg_jax.struct import field


class RL(AttackBase):
    """Colluders send ``scale * (w_g - w_k)`` after climbing ``(1 - stealth) F + stealth cos``.

    ``cos`` is that between the update and the honest direction, for which the mean of the
    colluders' own honest updates stands in. One row is trained, on images of all clients that the
    attacker controls, and sent by all that were sampled.

    Actions in [-1, 1]: ``scale`` on a log scale in [1 / max_scale, max_scale], ``steps`` linearly
    in 1..max_steps, ``stealth`` linearly in [0, 1].

    Attributes:
        max_scale: largest factor, above 1.
        max_steps: most local steps of the second pass (static).
        observation: ``partial`` hides the global model and its loss from the policy (static).
    """

    max_scale: float = 10.0
    max_steps: int = field(static=True, default=8)
    observation: str = field(static=True, default="full", choices=("full", "partial"))
    knowledge = "own"
    pools_images = True
    action_spec = ("scale", "steps", "stealth")

    @property
    def sees_model(self) -> bool:
        """As ``observation`` says."""
        return self.observation == "full"

    @property
    def second_pass_steps(self) -> int:
        """Colluders train apart, up to ``max_steps`` steps."""
        return self.max_steps

    def plan(self, key, state, ctx, action):
        """Steps and stealth as the action says; the loss is climbed with weight 1 - stealth."""
        stealth = jnp.clip((action[2] + 1) / 2, 0.0, 1.0)
        steps = jnp.round(1 + (jnp.clip(action[1], -1.0, 1.0) + 1) / 2 * (self.max_steps - 1))
        n = ctx.plan.sign.shape[0]
        return (
            ctx.plan.replace(
                sign=jnp.broadcast_to(stealth - 1.0, (n,)),
                stealth=jnp.broadcast_to(stealth, (n,)),
                steps=jnp.broadcast_to(steps.astype(jnp.int32), (n,)),
            ),
            state,
            {},
        )

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d]: the trained row, scaled."""
        scale = self.max_scale ** jnp.clip(action[0], -1.0, 1.0)
        return scale * seen(ctx), state, {}
