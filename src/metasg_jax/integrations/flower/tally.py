"""What became of each node's answers, over all rounds: for the people who run a federation."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

_LONGEST = 200
"""Characters of a reason that are kept: a client chooses some of them."""


class Tally:
    """Counts by node id, of a bounded number of nodes: who was heard of longest ago goes first.

    Attributes:
        most: nodes that are remembered.

    Example:
        >>> tally = Tally()
        >>> tally.add([2**63 + 1, 7], trust={7: 0.9}, kept=[7], refused={2**63 + 1: "no answer"})
        >>> tally.of(7)["kept"], tally.of(2**63 + 1)["refused"], tally.suspects()
        (1, 1, [9223372036854775809])
    """

    def __init__(self, most: int = 4096):
        self.most = most
        self._nodes: OrderedDict[int, dict[str, Any]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def add(
        self,
        asked: Iterable[int],
        trust: Mapping[int, float],
        kept: Iterable[int],
        refused: Mapping[int, str],
    ) -> None:
        """Counts a round: whom it asked, how far each was trusted, who was kept or refused."""
        kept, asked = set(kept), list(asked)
        for node in [*asked, *(n for n in refused if n not in set(asked))]:
            entry = self._nodes.pop(node, None) or _nothing()
            self._nodes[node] = entry
            entry["rounds"] += 1
            if node in refused:
                entry["refused"] += 1
                entry["reason"] = refused[node][:_LONGEST]
            elif node in kept:
                entry["kept"] += 1
            else:
                entry["left_out"] += 1
            if node in trust:
                entry["trust"] = trust[node]
        while len(self._nodes) > self.most:
            self._nodes.popitem(last=False)

    def of(self, node: int) -> dict[str, Any]:
        """Rounds it was in; how often it was kept, left out, refused; last trust and reason."""
        return dict(self._nodes.get(node) or _nothing())

    def all(self) -> dict[int, dict[str, Any]]:
        """By node id, who was heard of last comes last."""
        return {node: dict(entry) for node, entry in self._nodes.items()}

    def suspects(self, least: float = 0.5) -> list[int]:
        """Nodes that were left out or refused in more than that share of their rounds."""
        shares = {
            node: (entry["left_out"] + entry["refused"]) / entry["rounds"]
            for node, entry in self._nodes.items()
        }
        return sorted((n for n, s in shares.items() if s > least), key=lambda n: -shares[n])

    def to_json(self) -> list:
        """As JSON, whose keys can't be numbers."""
        return [[node, entry] for node, entry in self._nodes.items()]

    @classmethod
    def from_json(cls, tree: list, most: int) -> "Tally":
        """The inverse of :meth:`to_json`."""
        tally = cls(most)
        tally._nodes.update((int(node), _nothing() | entry) for node, entry in tree)
        return tally


def _nothing() -> dict[str, Any]:
    return {"rounds": 0, "kept": 0, "left_out": 0, "refused": 0, "trust": None, "reason": None}
