"""Defaults of a rule: no state, no root data, nothing to steer."""

from typing import Any, ClassVar

from metasg_jax.struct import Struct


class AggregatorBase(Struct):
    """A stateless rule with fixed parameters; a rule overrides what it changes.

    Attributes:
        needs_root: whether ``received.root_update`` must be there.
        action_spec: names of the knobs that a policy may turn; empty for a fixed rule.
        weighted: whether rows count by ``received.weights``; else a weight only says whether a row
            is there.
        per_client: whether an action begins with an entry for each row, before the knobs.
    """

    needs_root: ClassVar[bool] = False
    action_spec: ClassVar[tuple[str, ...]] = ()
    weighted: ClassVar[bool] = False
    per_client: ClassVar[bool] = False

    def init(self, n: int, d: int) -> Any:
        """State carried from round to round; empty unless a rule says otherwise."""
        return ()
