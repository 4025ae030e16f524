"""Backdoor federated learning and model replacement (Bagdasaryan et al., AISTATS 2020)."""

import jax.numpy as jnp

from metasg_jax.attacks.base import AttackBase, seen
from metasg_jax.struct import field


class BFL(AttackBase):
    """Each malicious client stamps a part of its batch with a trigger and labels it as the target.

    Attributes:
        fraction: in [0, 1], share of the batch's images of other classes that is stamped.
        boost: factor on the update; 1 is plain poisoned training.
        replace_model: static; whether the factor is n / (m eta) instead, with n clients sampled, m
            of them its own, and the server's learning rate eta: under the plain mean the next model
            is then the average of the attackers' models (model replacement, in the paper with
            m = 1).
    """

    fraction: float = 0.5
    boost: float = 1.0
    replace_model: bool = field(static=True, default=False)
    knowledge = "own"
    uses = ("trigger",)

    def plan(self, key, state, ctx, action):
        """Honest training on a stamped batch; images of the target class stay as they are."""
        plan = ctx.plan
        n, num_classes = plan.poison_class.shape
        others = (jnp.arange(num_classes) != ctx.target).astype(jnp.float32)
        image = plan.trigger_mask.shape
        return (
            plan.replace(
                poison_class=jnp.broadcast_to(others[None], (n, num_classes)),
                fraction=jnp.full((n,), self.fraction, jnp.float32),
                trigger_mask=jnp.broadcast_to(ctx.trigger_mask[None], image),
                trigger_pattern=jnp.broadcast_to(ctx.trigger_pattern[None], image),
                target=jnp.broadcast_to(ctx.target, (n,)),
            ),
            state,
            {},
        )

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d]: its own updates, boosted."""
        boost = self.boost
        if self.replace_model:
            count = jnp.maximum(ctx.malicious.sum(), 1)
            boost = ctx.malicious.shape[0] / (count * ctx.server_lr)
        return boost * seen(ctx), state, {}
