"""Label flipping (Tolpegin et al., ESORICS 2020)."""

from metasg_jax.attacks.base import AttackBase, seen
from metasg_jax.struct import field


class LabelFlip(AttackBase):
    """Each malicious client trains with another label in place of y.

    ``reverse`` is C - 1 - y, the map of Fang et al. (USENIX Security 2020); with an odd number of
    classes the middle one keeps its images. ``shift`` is y + 1 modulo C.

    Attributes:
        boost: factor on the update; 1 is plain training on wrong labels.
        map: static, ``reverse`` or ``shift``.
    """

    boost: float = 1.0
    map: str = field(static=True, default="reverse", choices=("reverse", "shift"))
    knowledge = "own"

    def plan(self, key, state, ctx, action):
        """Honest training on other labels."""
        table, num_classes = ctx.plan.label_map, ctx.plan.label_map.shape[1]
        other = (table + 1) % num_classes if self.map == "shift" else num_classes - 1 - table
        return ctx.plan.replace(label_map=other), state, {}

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d]: its own updates, boosted."""
        return self.boost * seen(ctx), state, {}
