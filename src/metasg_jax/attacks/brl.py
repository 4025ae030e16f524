"""The backdoor attack by reinforcement learning (Li et al., 2023): four knobs, a round each."""

import jax.numpy as jnp

from metasg_jax.attacks.base import AttackBase, seen
from metasg_jax.attacks.bfl import BFL
from metasg_jax.struct import field


class BRL(AttackBase):
    """Colluders send ``scale`` times an update trained on stamped batches as the action says.

    One row is trained, on images of all clients that the attacker controls, and sent by all that
    were sampled.

    Actions in [-1, 1]: ``fraction`` of the batch that is stamped, linearly in [0, 1]; ``lr`` of the
    local training, linearly in [0, max_lr] times the honest one; ``steps`` linearly in
    1..max_steps; ``scale`` on a log scale in [1 / max_scale, max_scale]. The ranges of the authors'
    code are twice the honest learning rate, 10 steps, and a linear scale up to 10.

    Attributes:
        max_lr: largest learning rate, in honest ones; positive.
        max_scale: largest factor, above 1.
        max_steps: most local steps of the second pass (static).
        observation: ``partial`` hides the global model and its loss from the policy (static).
    """

    max_lr: float = 2.0
    max_scale: float = 10.0
    max_steps: int = field(static=True, default=8)
    observation: str = field(static=True, default="full", choices=("full", "partial"))
    knowledge = "own"
    pools_images = True
    uses = ("trigger",)
    action_spec = ("fraction", "lr", "steps", "scale")

    @property
    def sees_model(self) -> bool:
        """As ``observation`` says."""
        return self.observation == "full"

    @property
    def second_pass_steps(self) -> int:
        """Colluders train apart, up to ``max_steps`` steps."""
        return self.max_steps

    def plan(self, key, state, ctx, action):
        """Training on a stamped batch; fraction, learning rate and steps as the action says."""
        plan, state, info = BFL().plan(key, state, ctx, action)
        fraction, lr, steps = (jnp.clip(action[:3], -1.0, 1.0) + 1) / 2
        whole = jnp.round(1 + steps * (self.max_steps - 1)).astype(jnp.int32)
        plan = plan.replace(
            fraction=jnp.full_like(plan.fraction, fraction),
            lr=ctx.plan.lr * self.max_lr * lr,
            steps=jnp.full_like(plan.steps, whole),
        )
        return plan, state, info

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d]: the trained row, scaled."""
        return self.max_scale ** jnp.clip(action[3], -1.0, 1.0) * seen(ctx), state, {}
