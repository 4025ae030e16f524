"""A backdoor diluted with honest work: each client mixes its poisoned and its honest update."""

from metasg_jax.attacks.bfl import BFL
from metasg_jax.attacks.mixing import KNOBS, mixed


class BlendedBFL(BFL):
    """As :class:`BFL`, but a client sends ``honest + mix (poisoned - honest)``.

    Both updates are of the same batches, so that what is added to an honest update is the backdoor
    and nothing else. Small mixtures lie within the spread of honest clients. Actions in [-1, 1]:
    ``mix`` in [0, 1] and ``acting``, the share of its clients in a round that act; the others are
    honest (see :func:`~metasg_jax.attacks.mixing.mixed`).
    """

    trains_twice = True
    action_spec = KNOBS

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d]."""
        crafted, state, info = super().craft(key, state, ctx, action)
        return mixed(ctx, crafted, action), state, info
