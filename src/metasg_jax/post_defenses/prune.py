"""Pruning of dormant units (Liu et al., RAID 2018; Wu et al., 2020)."""

import jax.numpy as jnp

from metasg_jax.limits import KNOB, SHARE, check_fields
from metasg_jax.struct import Struct


class Prune(Struct):
    """Takes away the hidden units that clean images activate least.

    A pruned unit is a ReLU unit bounded by 0. Steered by an action in [-1, 1]: ``rate`` maps
    linearly from ``max_rate`` (-1) to exactly nothing (+1), as every post-training knob is open at
    +1. Without an action the field is used.

    Attributes:
        rate: in [-1, 1].
        max_rate: in [0, 1], largest share of units pruned.
    """

    rate: float = 0.0
    max_rate: float = 0.5
    action_spec = ("rate",)

    def check(self):
        """Raises ConfigError for a field out of range."""
        check_fields(self, rate=KNOB, max_rate=SHARE)

    def calibrate(self, model, deployed, root_x, root_y):
        """Mean activation f32[U] of each unit on root images f32[R, h, w, c]."""
        return model.activations(deployed.params, root_x, deployed.clip).mean(axis=0)

    def __call__(self, key, state, deployed, action=None):
        """(Deployed, state, {pruned: share}); ``state`` is what ``calibrate`` returned."""
        value = self.rate if action is None else action[0]
        share = (1 - jnp.clip(value, -1.0, 1.0)) / 2 * self.max_rate
        units = state.shape[0]
        rank = jnp.argsort(jnp.argsort(state))
        pruned = rank < jnp.floor(share * units + 1e-4)
        clip = jnp.where(pruned, 0.0, deployed.clip)
        return deployed.replace(clip=clip), state, {"pruned": pruned.mean()}
