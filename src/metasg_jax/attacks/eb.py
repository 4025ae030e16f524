"""Explicit boosting (Bhagoji et al., ICML 2019), untargeted."""

from metasg_jax.attacks.base import AttackBase, seen


class EB(AttackBase):
    """Each malicious client climbs its own loss and boosts the update.

    Attributes:
        boost: factor on the update; the literature's is about n / m.
        proximal: weight of the squared distance to the global model while training (acts from the
            second local step on: at the first the distance is 0).
    """

    boost: float = 5.0
    proximal: float = 0.0
    knowledge = "own"

    def plan(self, key, state, ctx, action):
        """Gradient ascent from the global model."""
        ones = ctx.plan.sign * 0 + 1
        return ctx.plan.replace(sign=-ones, proximal=self.proximal * ones), state, {}

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d]: its own updates, boosted."""
        return self.boost * seen(ctx), state, {}
