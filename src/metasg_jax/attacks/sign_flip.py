"""Sign flipping (Li et al., AAAI 2019)."""

from metasg_jax.attacks.base import AttackBase, seen


class SignFlip(AttackBase):
    """Each malicious client sends its own honest update, times ``-scale``.

    Some libraries flip the mean of the honest updates instead: that is IPM of the same scale.

    Attributes:
        scale: positive.
    """

    scale: float = 1.0
    knowledge = "own"

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d], each ``-scale`` times the client's own."""
        return -self.scale * seen(ctx), state, {}
