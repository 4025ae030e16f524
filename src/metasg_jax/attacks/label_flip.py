"""Label flipping (Tolpegin et al., ESORICS 2020)."""

from metasg_jax.attacks.base import AttackBase, seen


class LabelFlip(AttackBase):
    """Each malicious client trains with label C - 1 - y in place of y.

    The map is that of Fang et al. (USENIX Security 2020); with an odd number of classes the middle
    one keeps its images.

    Attributes:
        boost: factor on the update; 1 is plain training on wrong labels.
    """

    boost: float = 1.0
    knowledge = "own"

    def plan(self, key, state, ctx, action):
        """Honest training on other labels."""
        table = ctx.plan.label_map
        return ctx.plan.replace(label_map=table.shape[1] - 1 - table), state, {}

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d]: its own updates, boosted."""
        return self.boost * seen(ctx), state, {}
