"""``docs/performance.md`` from ``docs/performance.csv``: each aim first, then the tables.

    python -m benchmarks.page

A number in the text is one of the file; what is said beside it is written by hand, here.
"""

import csv
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

from benchmarks.cases import RULES, cases
from benchmarks.report import ATTACKER, COMPILATION, MEMORY, markdown, number

SOURCE = Path(__file__).parents[1] / "docs" / "performance.csv"
REST = Path(__file__).with_suffix(".md")
ROUNDS = "rounds per second"
PEERS = "best peer's time / ours"
SIZES = [
    f"n = {n}, d = {d:,}"
    for n, d in dict.fromkeys((c.settings["n"], c.settings["d"]) for c in cases("rules"))
]
META_STEPS = next(c for c in cases("scaling") if c.name == "memory").settings["sizes"]


class Tables:
    """Cells of the file by (suite, table, case, column)."""

    def __init__(self, path: Path):
        """Reads the file."""
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        self.cells = {(r["suite"], r["table"], r["case"], r["column"]): r["value"] for r in rows}

    def value(self, *place: str) -> float:
        """A cell as a number; NaN where there is none."""
        text = self.cells.get(place, "n/a").strip("*\\").replace(",", "")
        return math.nan if text == "n/a" else float(text)

    def ratios(self, rule: str) -> list[float]:
        """The best peer's time over ours, by size."""
        found = [self.value("rules", f"{rule}, milliseconds", size, PEERS) for size in SIZES]
        return [each for each in found if not math.isnan(each)]


@dataclasses.dataclass(frozen=True)
class Aim:
    """What was aimed at.

    Attributes:
        work: what is measured, with its unit.
        aim: the number.
        reached: reads it.
        why_not: said where it was missed.
        most: whether the aim is an upper bound.
    """

    work: str
    aim: float
    reached: Callable[[Tables], list[float]]
    why_not: str
    most: bool = False

    def row(self, tables: Tables) -> list[str]:
        """Cells: work, aim, reached, why not."""
        found = self.reached(tables)
        worst = (max if self.most else min)(found, default=math.nan)
        good = worst <= self.aim if self.most else worst >= self.aim
        span = " to ".join(dict.fromkeys(number(each) for each in (min(found), max(found))))
        bound = "at most" if self.most else "at least"
        return [self.work, f"{bound} {self.aim:g}", span, "" if good else self.why_not]


def _round(case: str, column: str = PEERS):
    return lambda t: [t.value("rounds", ROUNDS, case, column)]


def _against_byzfl(case: str):
    def ratio(t: Tables) -> list[float]:
        return [_round(case, "ours")(t)[0] / _round(case, "ByzFL")(t)[0]]

    return ratio


def _scaling(table: str, case: str, column: str):
    return lambda t: [t.value("scaling", table, case, column)]


_PRODUCT = (
    "mostly the product of all rows: NumPy computes one triangle of it, XLA both (blocks of "
    "triangles are slower but for n = 300, BLAS through a host callback up to n = 100)"
)
_CLIENTS = "clients in all, 10 of them sampled"

_RULES = {
    "median": "",
    "trimmed_mean": "",
    "krum": _PRODUCT,
    "multi_krum": "as Krum",
    "geometric_median": (
        "three to five steps of two passes over the rows, as NumPy; the norms take XLA as long as "
        "three passes more; a start at the last round's median would save none to a fifth of them"
    ),
    "nnm+trimmed_mean": "as Krum, with 1,000 clients",
    "bulyan": "its rows are chosen one by one, each time by counting all that are left",
    "mda": "",
}

AIMS = [
    Aim("MLP round of one step, times the best peer", 6, _round("MLP, 1 step, mean"),
        "six times would be 1.4 times the time of its products alone"),
    Aim("MLP round of five steps, times the best peer", 3.5, _round("MLP, 5 steps, mean"),
        "PyTorch's products are as fast, and they are most of it"),
    Aim("median in a round, times ByzFL", 20, _against_byzfl("MLP, 1 step, median"),
        "training is most of the round"),
    Aim("Krum in a round, times ByzFL", 10, _against_byzfl("MLP, 1 step, krum"),
        "training is most of the round, then the product of the rows"),
    Aim("CNN round of one step, times PyTorch's loop", 2, _round("CNN, 1 step, mean"),
        "half of it are products of 16 and 32 rows, at half the floor's rate; twice PyTorch's "
        "speed would be 1.4 times the floor"),
    Aim("CNN round of five steps, times PyTorch's loop", 2, _round("CNN, 5 steps, mean"),
        "the same"),
    Aim("a step of the game, times a public environment's reported speed", 30,
        lambda t: [t.value(*place) for place in t.cells if place[3] == "speed / reported"],
        "thirty times would be faster than its products"),
    *(Aim(f"{rule}, times the best peer", 1,
          lambda t, rule=rule: t.ratios(rule), why) for rule, why in _RULES.items()),
    Aim("seconds to compile a meta-step, cold", 10,
        _scaling(COMPILATION, "mlp, cold cache", "seconds"),
        "a fifth is tracing and lowering; the rest are some 900 small kernels, each once",
        most=True),
    Aim("the same with a filled cache", 2, _scaling(COMPILATION, "mlp, warm cache", "seconds"),
        "tracing and lowering; kept by `jax.export`, a step begins in 0.5 s: not built",
        most=True),
    Aim("seconds to compile a meta-step of ResNet-18, cold", 60,
        _scaling(COMPILATION, "resnet18, cold cache", "seconds"), "not looked into", most=True),
    Aim("memory of a meta-step, measured / expected, three sizes", 1.2,
        lambda t: [t.value("scaling", MEMORY, size, "measured / expected")
                   for size in META_STEPS],
        "the estimate counts blocks of rows as XLA lays them out", most=True),
    Aim("time of a round with 1,000,000 clients / with 100", 1.1,
        _scaling(_CLIENTS, "N = 1,000,000", "time, relative to the first"), "noise", most=True),
    Aim("a round with an attacker of 10 local steps / its parts alone", 1.0,
        _scaling(ATTACKER, "attacker of 10 local steps", "ratio"),
        "the attacker's row is trained apart, and copied into the others'", most=True),
]  # fmt: skip


def _rounds_played(tables: Tables) -> list[str]:
    return list(dict.fromkeys(p[2] for p in tables.cells if p[:2] == ("rounds", ROUNDS) and p[2]))


def aims(tables: Tables) -> str:
    """Work, aim, reached, why not."""
    rows = [aim.row(tables) for aim in AIMS]
    return markdown(["work", "aim", "reached", "why not"], rows, words=4)


def rounds(tables: Tables) -> str:
    """Rounds per second, the floor and the best peer."""
    columns = ["ours", "floor", "time / floor", PEERS, "spread of ours"]
    rows = [
        [case, *(tables.cells[("rounds", ROUNDS, case, column)] for column in columns)]
        for case in _rounds_played(tables)
    ]
    return markdown(["case", *columns], rows)


def rules(tables: Tables) -> str:
    """The best peer's time over ours, a row a size; n = 50 is in the file alone."""
    rows = []
    for size in (each for each in SIZES if "n = 50," not in each):
        values = [tables.value("rules", f"{rule}, milliseconds", size, PEERS) for rule in RULES]
        rows.append([size, *("" if math.isnan(v) else number(v) for v in values)])
    return markdown(["clients, parameters", *RULES], rows)


def memory(tables: Tables) -> str:
    """Expected and measured peaks."""
    columns = ["parameters", "expected, MB", "measured, MB", "measured / expected"]
    rows = [
        [size, *(tables.cells[("scaling", MEMORY, size, column)] for column in columns)]
        for size in META_STEPS
    ]
    return markdown(["meta-step", *columns], rows)


def spans(tables: Tables) -> dict[str, str]:
    """Smallest and largest of what the first sentence speaks of."""
    mlp = [case for case in _rounds_played(tables) if case.startswith("MLP")]

    def of_rules(*names: str) -> list[float]:
        return [ratio for name in names for ratio in tables.ratios(name)]

    found = {
        "mlp": [tables.value("rounds", ROUNDS, case, PEERS) for case in mlp],
        "mlp_floor": [tables.value("rounds", ROUNDS, case, "time / floor") for case in mlp],
        "order": of_rules("median", "trimmed_mean"),
        "krum": of_rules("krum", "multi_krum", "bulyan", "mda", "nnm+trimmed_mean"),
        "geometric": of_rules("geometric_median"),
    }
    return {name: f"{number(min(v))} to {number(max(v))}" for name, v in found.items()}


def page(tables: Tables) -> str:
    """The whole page."""
    parts = {"aims": aims, "rounds": rounds, "rules": rules, "memory": memory}
    filled = {name: part(tables) for name, part in parts.items()} | spans(tables)
    filled["machine"] = tables.cells[("rules", "", "", "machine")]
    text = REST.read_text()
    for name, value in filled.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def write(source: Path) -> Path | None:
    """Writes the page beside its numbers, once each aim has one; None before."""
    tables = Tables(source)
    found = [aim.reached(tables) for aim in AIMS]
    if any(not numbers or any(map(math.isnan, numbers)) for numbers in found):
        return None
    beside = source.with_suffix(".md")
    beside.write_text(page(tables))
    return beside


if __name__ == "__main__":
    write(SOURCE)
