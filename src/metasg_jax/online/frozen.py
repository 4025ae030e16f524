"""No adaptation: the meta policy, whose memory is all that reacts; its mode, or sampled."""

from typing import ClassVar

from metasg_jax.struct import Struct


class Frozen(Struct):
    """Psi that changes nothing: the control of all others, and the paper's way without gradients,
    as far as moving averages are a memory.
    """

    adapts: ClassVar[bool] = False
    explores: ClassVar[bool] = False

    def begin(self, key, own, meta):
        """Nothing to prepare."""
        return ()

    def __call__(self, key, state, own, meta, current, view, belief):
        """(the same policy, state, {})."""
        return current, state, {}


class Sampled(Frozen):
    """The same with actions that are sampled: the control of every Psi that has to explore."""

    explores: ClassVar[bool] = True
