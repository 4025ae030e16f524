"""Inner product manipulation diluted with honest work."""

from metasg_jax.attacks.ipm import IPM
from metasg_jax.attacks.mixing import KNOBS, mixed


class BlendedIPM(IPM):
    """As :class:`IPM`, but a client sends a mixture with its own honest update.

    Actions as of :class:`~metasg_jax.attacks.blended_bfl.BlendedBFL`.
    """

    trains_twice = True
    action_spec = KNOBS

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d]."""
        crafted, state, info = super().craft(key, state, ctx, action)
        return mixed(ctx, crafted, action), state, info
