"""A rule behind pre-aggregators: ``nnm+krum``."""

from typing import Any

import jax

from metasg_jax.struct import Struct
from metasg_jax.types import Aggregator, PreAggregator


class Composed(Struct):
    """Pre-aggregators in order, then a rule; itself a rule.

    Its knobs are those of its parts, in the same order. ``info`` is that of all parts; of two
    entries with one name the later part's stays, but ``rejected`` is their sum: a row that one part
    rejects has weight 0 for the next.

    Attributes:
        pre: what changes the rows first.
        rule: what makes one update of them.

    Example:
        >>> from metasg_jax.aggregators import Krum
        >>> from metasg_jax.pre_aggregators import NNM
        >>> from metasg_jax.testing import received
        >>> rule = Composed((NNM(f=1),), Krum(f=1))
        >>> rows = received([[0.0], [1.0], [2.0], [90.0]])
        >>> rule(jax.random.key(0), rule.init(4, 1), rows)[0].tolist()
        [1.0]
    """

    pre: tuple[PreAggregator, ...]
    rule: Aggregator

    @property
    def needs_root(self) -> bool:
        """Whether any part needs ``received.root_update``."""
        return any(part.needs_root for part in self._parts)

    @property
    def action_spec(self) -> tuple[str, ...]:
        """Knobs of all parts, in order."""
        return tuple(knob for part in self._parts for knob in part.action_spec)

    @property
    def per_client(self) -> bool:
        """Whether the rule decides about each row; no pre-aggregator has knobs then."""
        return self.rule.per_client

    def init(self, n: int, d: int) -> Any:
        """A state for each part."""
        states = []
        for part in self.pre:
            states.append(part.init(n, d))
            n = part.num_rows(n)
        return (*states, self.rule.init(n, d))

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, info of all parts)."""
        keys = jax.random.split(key, len(self._parts))
        states, infos, used, rejected = [], {}, 0, 0
        for i, pre in enumerate(self.pre):
            knobs = _knobs(pre, action, used)
            used += len(pre.action_spec)
            received, pre_state, info = pre(keys[i], state[i], received, knobs)
            states.append(pre_state)
            infos |= info
            rejected += info.get("rejected", 0)
        knobs = action if self.per_client else _knobs(self.rule, action, used)
        update, rule_state, info = self.rule(keys[-1], state[-1], received, knobs)
        rejected += info.get("rejected", 0)
        return update, (*states, rule_state), infos | info | {"rejected": rejected}

    @property
    def _parts(self) -> tuple[PreAggregator | Aggregator, ...]:
        return (*self.pre, self.rule)


def _knobs(part, action, start):
    """What of the action is the part's; None where it has no knobs or nobody acts."""
    size = len(part.action_spec)
    return None if action is None or not size else action[start : start + size]
