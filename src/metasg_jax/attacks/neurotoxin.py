"""Neurotoxin (Zhang et al., ICML 2022): a backdoor in coordinates that others leave alone."""

import jax
import jax.numpy as jnp

from metasg_jax.attacks.bfl import BFL
from metasg_jax.struct import Struct

# halvings of an interval of thresholds: float32 has no more digits
_HALVINGS = 24


class Observed(Struct):
    """The global model of the round before.

    Attributes:
        w: f32[d].
        known: bool[], False before the first round.
    """

    w: jax.Array
    known: jax.Array


class Neurotoxin(BFL):
    """As :class:`~metasg_jax.attacks.BFL`, without the coordinates that the last round moved most.

    The ``share`` of coordinates in which the global model moved most between the two last rounds
    is zeroed in the update: honest clients will not soon undo what is written elsewhere. In the
    first round nothing is zeroed. With one local step that is the paper's projection of every
    gradient; with several it is applied to their sum only.

    Attributes:
        fraction: in [0, 1], share of the batch's images of other classes that is stamped.
        boost: factor on the update.
        replace_model: as in :class:`~metasg_jax.attacks.BFL`.
        share: in [0, 1), of the coordinates that are left alone (k of "top-k%").
    """

    share: float = 0.1

    def init(self, n, d):
        """No model seen yet."""
        return Observed(jnp.zeros((d,), jnp.float32), jnp.zeros((), bool))

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d]: its own updates, boosted, in the coordinates that hardly moved."""
        rows, _, info = super().craft(key, state, ctx, action)
        moved = jnp.abs(ctx.w_global - state.w)
        kept = ~state.known | (moved <= top_threshold(moved, self.share))
        new = Observed(ctx.w_global, jnp.ones((), bool))
        return jnp.where(kept[None], rows, 0.0), new, info


def top_threshold(values: jax.Array, share) -> jax.Array:
    """A number that a ``share`` of ``values`` f32[d] >= 0 exceeds, up to ties. By bisection.

    A sort of d values takes a CPU far longer than the round itself.
    """
    wanted = share * values.shape[0]

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        many = (values > middle).sum() > wanted
        return jnp.where(many, middle, low), jnp.where(many, high, middle)

    low = jnp.full((), -1e-30, values.dtype)
    return jax.lax.fori_loop(0, _HALVINGS, halve, (low, values.max()))[1]
