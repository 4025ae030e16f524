"""The worst that was found to happen to each defence, and whether attackers were strong enough."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metasg_jax.evaluation.attack_suite import is_comparable
from metasg_jax.evaluation.statistics import mean_se


class Played(NamedTuple):
    """One episode of an attack against a defence; a line of exploit.csv.

    Attributes:
        defence: as it was named.
        attack: a type.
        attacker: who plays it, by its directory; empty for a fixed attack.
        stream: ``selection``, in which the worst is chosen, or ``final``, by which it is told.
        world: number of the world in its stream.
        score: accuracy minus attack success.
        accuracy: of the deployed model.
        asr: NaN without a backdoor.
    """

    defence: str
    attack: str
    attacker: str
    stream: str
    world: int
    score: float
    accuracy: float
    asr: float

    @property
    def label(self) -> str:
        """Text that names the attack and who plays it."""
        return label_of(self.attack, self.attacker)

    @property
    def place(self) -> tuple:
        """What tells it from all others."""
        return self[:5]


def label_of(attack: str, attacker: str = "") -> str:
    """An attack in tables, with the name of who plays it where that has learned."""
    return f"{attacker} ({attack})" if attacker else attack


class Case(NamedTuple):
    """What one attack does to one defence.

    Attributes:
        label: of the attack.
        learned: whether it learned.
        selection: its mean score on selection worlds.
        final: f64[S], its scores on final worlds.
        accuracy: mean on final worlds.
    """

    label: str
    learned: bool
    selection: float
    final: np.ndarray
    accuracy: float


def cases(rows: Sequence[Played], defence: str) -> list[Case]:
    """All attacks on a defence, the worst on selection worlds first."""
    found = []
    mine = [row for row in rows if row.defence == defence]
    for label in dict.fromkeys(row.label for row in mine):
        each = [row for row in mine if row.label == label]
        final = sorted((row for row in each if row.stream == "final"), key=lambda row: row.world)
        chosen_by = [row.score for row in each if row.stream == "selection"]
        found.append(
            Case(label, bool(each[0].attacker), float(np.mean(chosen_by)),
                 np.array([row.score for row in final]),
                 float(np.mean([row.accuracy for row in final])))
        )  # fmt: skip
    return sorted(found, key=lambda case: case.selection)


def worst_rows(rows: Sequence[Played], gates: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each defence by its worst case, the most robust first.

    Args:
        rows: all that was played.
        gates: by name of an attacker.
    """
    table = []
    for defence in dict.fromkeys(row.defence for row in rows):
        mine = cases(rows, defence)
        worst = mine[0]
        fixed = next(case for case in mine if not case.learned)
        learned = next((case for case in mine if case.learned), None)
        gate = "" if learned is None else gates.get(learned.label.partition(" (")[0], "?")
        clean = next((case.accuracy for case in mine if case.label == "none"), np.nan)
        mean, error = mean_se(worst.final)
        table.append(
            (mean,
             [defence, f"{mean:.3f} ± {error:.3f}", worst.label,
              f"{fixed.final.mean():.3f} ({fixed.label})",
              "" if learned is None else f"{learned.final.mean():.3f} (gate {gate})",
              f"{clean:.3f}"])
        )  # fmt: skip
    header = ["defence", "worst score", "by", "worst of the zoo", "worst that learned", "clean"]
    return header, [row for _, row in sorted(table, key=lambda each: -each[0])]


def gate(
    rows: Sequence[Played],
    attacker: str,
    attack: str,
    against: str,
    num_clients: int,
    own: bool = False,
):
    """An attacker beside the strongest comparable attack on the defence that it learned from.

    Which fixed attacks are comparable :func:`~metasg_jax.evaluation.attack_suite.is_comparable`
    says; with ``own`` only those are that know no more than the colluders' own updates.

    Returns:
        (its final scores f64[S], the :class:`Case` of the comparable one); None without either.
    """
    played = {case.label: case for case in cases(rows, against)}
    mine = played.get(label_of(attack, attacker))
    others = [
        case for case in played.values()
        if not case.learned and is_comparable(case.label, attack, num_clients, own)
    ]  # fmt: skip
    if mine is None or not others:
        return None
    return mine.final, min(others, key=lambda case: case.final.mean())


def as_strong(own, other) -> bool:
    """Whether an attacker leaves a defence no better than another does, by mean scores f64[S]."""
    return bool(np.mean(own) <= np.mean(other))
