"""The defender's rule with a third knob: how much the server's own update decides."""

import jax.numpy as jnp

from metasg_jax.aggregators.clipped_trimmed_mean import ClippedTrimmedMean
from metasg_jax.aggregators.fltrust import FLTrust


class TrustedTrimmedMean(ClippedTrimmedMean):
    """``(1 - s)`` of the clipped trimmed mean plus ``s`` of FLTrust's update.

    Steered by an action in [-1, 1]^3: ``clip`` and ``trim`` as in
    :class:`~metasg_jax.aggregators.ClippedTrimmedMean`; ``trust`` maps linearly to s in [0, 1].
    So (1, -1, -1) is the mean, and a trust of 1 is FLTrust whatever the others say. Without an
    action the fields of the same names are used.

    Attributes:
        clip: in [-1, 1].
        trim: in [-1, 1].
        min_clip: positive; smallest multiple of the median norm.
        max_clip: largest multiple below "no clipping".
        max_trim: below 0.5; largest share trimmed at each side.
        trust: in [-1, 1].
    """

    trust: float = 0.0
    action_spec = ("clip", "trim", "trust")
    needs_root = True

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {clip_multiple, trim_share, trust_share, rejected: i32[]}).

        Raises:
            ValueError: where ``received.root_update`` is None.
        """
        trust = self.trust if action is None else action[2]
        share = (jnp.clip(trust, -1.0, 1.0) + 1) / 2
        steered, _, info = super().__call__(key, state, received, action)
        trusted, _, _ = FLTrust()(key, (), received)
        update = (1 - share) * steered + share * trusted
        return update, state, {**info, "trust_share": share}
