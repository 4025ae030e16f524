"""The defender's rule: clip every norm, then a trimmed mean; both knobs are turned by a policy."""

import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.norms import clip_factors, times_median
from metasg_jax.aggregators.order import order_statistics, trimmed_window
from metasg_jax.aggregators.presence import count_rejected, presence, present_norms


class ClippedTrimmedMean(AggregatorBase):
    """Norm clipping to a multiple of the round's median norm, then a fractional trimmed mean.

    Steered by an action in [-1, 1]^2. ``clip`` maps log-linearly to [min_clip, max_clip] times the
    median of the received norms, and +1 is exactly no clipping; ``trim`` maps linearly to
    [0, max_trim] of the rows at each side (a fractional end row is weighted down), and -1 is
    exactly no trimming. So (+1, -1) is the mean. Without an action the fields ``clip`` and
    ``trim`` are used; they are on the same scale.

    Attributes:
        clip: in [-1, 1].
        trim: in [-1, 1].
        min_clip: positive; smallest multiple of the median norm.
        max_clip: largest multiple below "no clipping".
        max_trim: below 0.5; largest share trimmed at each side.

    Example:
        >>> from metasg_jax.testing import received
        >>> rule = ClippedTrimmedMean(clip=1.0, trim=-1.0)
        >>> rule(None, (), received([[1.0, 2.0], [3.0, 6.0]]))[0].tolist()
        [2.0, 4.0]
    """

    clip: float = 0.0
    trim: float = 0.0
    min_clip: float = 0.3
    max_clip: float = 10.0
    max_trim: float = 0.45
    action_spec = ("clip", "trim")

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {clip_multiple, trim_share, rejected: i32[]})."""
        clip, trim = (self.clip, self.trim) if action is None else (action[0], action[1])
        multiple = self.clip_multiple(clip)
        share = self.trim_share(trim)
        present = presence(received)
        norms = present_norms(received, present)
        factors = clip_factors(norms, times_median(multiple, norms, present))
        window = trimmed_window(present, share * present.sum())
        update = order_statistics(received.updates, present, window, factors)
        rejected = count_rejected(received, present)
        info = {"clip_multiple": multiple, "trim_share": share, "rejected": rejected}
        return update, state, info

    def clip_multiple(self, clip):
        """Multiple of the median norm that ``clip`` in [-1, 1] stands for; +inf from 1 on."""
        span = jnp.log(self.max_clip / self.min_clip)
        multiple = self.min_clip * jnp.exp((jnp.clip(clip, -1.0, 1.0) + 1) / 2 * span)
        return jnp.where(clip >= 1.0, jnp.inf, multiple)

    def trim_share(self, trim):
        """Share of rows trimmed at each side that ``trim`` in [-1, 1] stands for."""
        return (jnp.clip(trim, -1.0, 1.0) + 1) / 2 * self.max_trim
