"""The control of the set network: a body by which no client sees another."""

import flax.linen as nn

from metasg_jax.policies.set_policy import BODIES


class Alone(nn.Module):
    """Tanh layers; no client sees another."""

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, clients, present):
        """As :class:`metasg_jax.policies.set_policy.DeepSets`."""
        for width in self.hidden:
            clients = nn.tanh(nn.Dense(width)(clients))
        return clients


BODIES["alone"] = Alone
