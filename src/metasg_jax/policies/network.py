"""The network of the learned policies: what they draw from, given an observation."""

import flax.linen as nn


class Network(nn.Module):
    """Tanh layers and a last layer that is almost 0 at first: a fresh policy sees no difference.

    Attributes:
        hidden: widths of the hidden layers.
        size: of the output.
        use_bias: whether the last layer has one.
    """

    hidden: tuple[int, ...]
    size: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, obs):
        """f32[size] of an observation f32[O]."""
        for width in self.hidden:
            obs = nn.tanh(nn.Dense(width)(obs))
        kernel_init = nn.initializers.normal(0.01)
        return nn.Dense(self.size, use_bias=self.use_bias, kernel_init=kernel_init)(obs)
