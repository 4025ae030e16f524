"""Defaults of a pre-aggregator: as many rows as before, no state, no root data, no knobs."""

from typing import Any, ClassVar

from metasg_jax.struct import Struct


class PreAggregatorBase(Struct):
    """A stateless pre-aggregator with fixed parameters; one overrides what it changes.

    Attributes:
        needs_root: whether ``received.root_update`` must be there.
        action_spec: names of the knobs that a policy may turn.
    """

    needs_root: ClassVar[bool] = False
    action_spec: ClassVar[tuple[str, ...]] = ()

    def init(self, n: int, d: int) -> Any:
        """State carried from round to round; empty unless a variant says otherwise."""
        return ()

    def num_rows(self, n: int) -> int:
        """How many rows leave, of ``n`` that enter."""
        return n
