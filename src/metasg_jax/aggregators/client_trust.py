"""The rule of a defender that decides about each client: trust, and knobs over the trusted rows."""

import math

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.clipped_trimmed_mean import ClippedTrimmedMean
from metasg_jax.aggregators.norms import clip_factors, times_median
from metasg_jax.aggregators.order import order_statistics, trimmed_window
from metasg_jax.aggregators.presence import (
    count_rejected,
    present_norms,
    present_rows,
    usable_root,
)
from metasg_jax.numerics import shares, weighted_sum


class ClientTrust(ClippedTrimmedMean):
    """Clips the trusted rows, takes their weighted or trimmed mean, blends in the server's own.

    Steered by an action in [-1, 1]^(n + 3): first ``trust`` for each row, linear to [0, 1]; then

    - ``clip``, log-linear to [min_clip, max_clip] times the median norm of the trusted; +1 is no
      clipping;
    - ``trim``, linear to [0, max_trim]: the share of the trusted dropped from each side of every
      coordinate; -1 is none;
    - ``own``, linear to [0, 1]: the share of the root update in the result; -1 is none.

    Without trimming rows count by trust times weight. Order statistics know no weights: with
    trimming each row of trust above 1/2 counts once. Trust 1 for all with (+1, -1, -1) is the mean;
    trust for the honest alone the perfect filter; for those that a selection keeps, multi-Krum.
    Nobody trusted leaves the server's own update if ``own`` asks for it, else none. An own update
    whose squared norm is not finite has no share.

    Without an action everybody is trusted and the fields say the rest.

    Attributes:
        clip: in [-1, 1].
        trim: in [-1, 1].
        own: in [-1, 1]; above -1 needs ``received.root_update``.
        min_clip: positive; smallest multiple of the median norm.
        max_clip: largest multiple below "no clipping".
        max_trim: below 0.5; largest share trimmed at each side.

    Example:
        >>> from metasg_jax.testing import received
        >>> got = received([[1.0], [3.0], [90.0]])
        >>> ClientTrust()(None, (), got, jnp.array([1.0, 1.0, -1.0, 1.0, -1.0, -1.0]))[0].tolist()
        [2.0]
    """

    clip: float = 1.0
    trim: float = -1.0
    own: float = -1.0
    action_spec = ("clip", "trim", "own")
    weighted = True
    per_client = True

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {trusted, clip_multiple, trim_share, own_share: f32[], rejected: i32[]}).

        ``trusted`` is the sum of trust over present rows.
        """
        updates, present = present_rows(received)
        n = updates.shape[0]
        if action is None:
            action = jnp.concatenate(
                [
                    jnp.ones((n,), jnp.float32),
                    jnp.stack([jnp.asarray(v) for v in (self.clip, self.trim, self.own)]),
                ]
            )
        action = action.astype(updates.dtype)
        trust = jnp.where(present, _unit(action[:n]), 0.0)
        clip, trim, own = action[n], action[n + 1], action[n + 2]
        norms = present_norms(received, present)
        trusted = trust > 0.5
        # with nobody above one half the smaller trusts set the scale among themselves
        trusted = jnp.where(trusted.any(), trusted, trust > 0)
        multiple = self.clip_multiple(clip)
        factors = clip_factors(norms, times_median(multiple, norms, trusted))
        weights = trust * jnp.where(present, received.weights, 0.0)
        share = self.trim_share(trim)

        def mean():
            return weighted_sum(shares(weights) * factors, updates)

        def trimmed():
            window = trimmed_window(trusted, share * trusted.sum())
            return order_statistics(updates, trusted, window, factors)

        update = jax.lax.cond((share > 0) & trusted.any(), trimmed, mean)
        own_share = _unit(own)
        if received.root_update is not None:
            root, usable = usable_root(received.root_update)
            own_share = jnp.where(usable, own_share, 0.0)
            update = (1 - own_share) * update + own_share * root
        info = {
            "trusted": trust.sum(),
            "clip_multiple": multiple,
            "trim_share": share,
            "own_share": own_share,
            "rejected": count_rejected(received, present),
        }
        return update, state, info


def knob_of_clip(multiple: float) -> float:
    """The knob ``clip`` that stands for a multiple of the median norm."""
    rule = ClientTrust()
    span = math.log(rule.max_clip / rule.min_clip)
    return 2 * math.log(multiple / rule.min_clip) / span - 1


def knob_of_trim(share: float) -> float:
    """The knob ``trim`` that stands for a share a side."""
    return 2 * share / ClientTrust().max_trim - 1


def _unit(knob):
    """[-1, 1] to [0, 1]."""
    return (jnp.clip(knob, -1.0, 1.0) + 1) / 2
