"""Neuron clipping (Wang et al., 2022): hidden units may not exceed what clean images reach."""

import jax.numpy as jnp

from metasg_jax.limits import KNOB, POSITIVE, check_fields
from metasg_jax.struct import Struct


class NeuronClip(Struct):
    """Bounds each hidden unit by a multiple of its largest value on the root images.

    Steered by an action in [-1, 1]: ``range`` maps log-linearly to [min_range, max_range] times
    the calibrated bound, and +1 is exactly no clipping. Without an action the field is used.

    Attributes:
        range: in [-1, 1].
        min_range: positive.
        max_range: positive, above ``min_range``.
    """

    range: float = 0.0
    min_range: float = 0.3
    max_range: float = 3.0
    action_spec = ("range",)

    def check(self):
        """Raises ConfigError for a field out of range."""
        check_fields(self, range=KNOB, min_range=POSITIVE)
        above = (lambda v: v > self.min_range, f"above min_range = {self.min_range:g}")
        check_fields(self, max_range=above)

    def calibrate(self, model, deployed, root_x, root_y):
        """Largest activation f32[U] of each unit on root images f32[R, h, w, c]."""
        return model.activations(deployed.params, root_x, deployed.clip).max(axis=0)

    def __call__(self, key, state, deployed, action=None):
        """(Deployed, state, {range_multiple}); ``state`` is what ``calibrate`` returned."""
        value = self.range if action is None else action[0]
        span = jnp.log(self.max_range / self.min_range)
        multiple = self.min_range * jnp.exp((jnp.clip(value, -1.0, 1.0) + 1) / 2 * span)
        bound = jnp.where(value >= 1.0, jnp.inf, multiple * state)
        clip = jnp.minimum(deployed.clip, bound)
        return deployed.replace(clip=clip), state, {"range_multiple": multiple}
