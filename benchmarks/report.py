"""From measurements to tables: one function a suite."""

import csv
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.cases import AXES, Case
from benchmarks.measure import Measured, Measurement

# These are not competitors: bounds, and parts of the work.
BOUNDS = ("floor", "Gram product")
# Stands for all peers where their environment is missing; a remark, not a column.
ABSENT = "peers"
# Relative difference of results above which two contestants did not compute the same.
_SAME = 1e-3
# Rounds per second of a public environment in PyTorch; measured earlier, not in this run.
REPORTED_GAME_SPEED = 0.32

COMPILATION = "tracing and compiling `meta_sl_step`, preset `cpu`"
MEMORY = "memory of a meta-step at its peak"
ATTACKER = "a round with an attacker that trains longer"
"""Titles of tables that the page reads."""

FIELDS = ("suite", "table", "case", "column", "value")
"""Columns of a file of tables."""

Results = list[tuple[Case, Measured]]


@dataclasses.dataclass
class Table:
    """Text cells with a heading and remarks below."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = dataclasses.field(default_factory=list)

    def transposed(self) -> "Table":
        """Rows as columns, for where a line is short."""
        columns, *rows = (list(cells) for cells in zip(self.columns, *self.rows, strict=True))
        return dataclasses.replace(self, columns=columns, rows=rows)

    def markdown(self) -> str:
        """As Markdown, numbers to the right."""
        notes = [f"- {note}" for note in self.notes]
        lines = [f"### {self.title}", "", markdown(self.columns, self.rows)]
        return "\n".join([*lines, *([""] if notes else []), *notes])


def markdown(columns: list[str], rows: list[list[str]], words: int = 1) -> str:
    """A table in Markdown whose first ``words`` columns hold words; numbers to the right."""
    lines = ["| " + " | ".join(row) + " |" for row in [columns, *rows]]
    lines.insert(1, "|" + "|".join([" --- "] * words + [" ---: "] * (len(columns) - words)) + "|")
    return "\n".join(lines)


def tables(suite: str, results: Results) -> list[Table]:
    """The tables of a suite."""
    makers: dict[str, Callable[[Results], list[Table]]] = {
        "rounds": _rounds,
        "rules": _rules,
        "game": _game,
        "scaling": _scaling,
    }
    return makers[suite](results)


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    if math.isnan(value):
        return "n/a"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}"


def _rounds(results: Results) -> list[Table]:
    table = _contest("rounds per second", lambda case: case.name, results, "rounds/s")
    flops = [measured.get("floor", Measurement()).facts.get("flops") for _, measured in results]
    table.columns.insert(1, "MFLOP a round")
    for row, count in zip(table.rows, flops, strict=True):
        row.insert(1, number(count / 1e6) if count else "n/a")
    return [table]


def _rules(results: Results) -> list[Table]:
    made = []
    for rule in dict.fromkeys(case.settings["rule"] for case, _ in results):
        part = [(case, m) for case, m in results if case.settings["rule"] == rule]
        made.append(
            _contest(
                f"{rule}, milliseconds",
                lambda case: f"n = {case.settings['n']}, d = {case.settings['d']:,}",
                part,
                "ms",
            )
        )
    return made


def _game(results: Results) -> list[Table]:
    table = _contest("rounds of the game per second", lambda case: case.name, results, "rounds/s")
    table.columns += ["reported earlier", "speed / reported"]
    for row, (_, measured) in zip(table.rows, results, strict=True):
        speed = 1 / measured.get("ours", Measurement()).median
        row += [number(REPORTED_GAME_SPEED), number(speed / REPORTED_GAME_SPEED)]
    table.notes.append(
        f"{REPORTED_GAME_SPEED} rounds/s is a public PyTorch environment of the same game (10 "
        "clients, batch 128, a CNN of about 710,000 parameters), reported earlier on a 2-core "
        "machine, not rerun. It also evaluates 10,000 test images twice a round; ours pays its "
        "rewards on 100 root images."
    )
    return [table]


def _contest(title: str, name: Callable[[Case], str], results: Results, unit: str) -> Table:
    """A row a case, a column a contestant, then the ratios."""
    everyone = dict.fromkeys(who for _, measured in results for who in measured)
    bounds = [who for who in everyone if who in BOUNDS]
    peers = [who for who in everyone if who not in (*BOUNDS, "ours", ABSENT)]
    columns = ["case", "ours", *bounds, *(f"time / {b}" for b in bounds), *peers]
    columns += ["best peer's time / ours", "spread of ours"]
    rows = []
    for case, measured in results:
        at = dict.fromkeys(["ours", *everyone], Measurement()) | measured
        ours = at["ours"]
        cells = [name(case), *(_cell(at[who], unit) for who in ["ours", *bounds])]
        cells += [number(ours.ratio_to(at[bound])) for bound in bounds]
        for who in peers:
            mark = "\\*" if _difference(at[who], _reference(at)) > _SAME else ""
            cells.append(_cell(at[who], unit) + mark)
        timed = [at[who] for who in peers if at[who].samples]
        best = min(timed, key=lambda m: m.median, default=Measurement())
        factor = best.ratio_to(ours)
        cells.append(number(factor))
        spread = (max(ours.samples) - min(ours.samples)) / ours.median if ours.samples else math.nan
        cells.append("n/a" if math.isnan(spread) else f"{100 * spread:.0f} %")
        rows.append(cells)
    return Table(title, columns, rows, _notes(name, results))


def _cell(measurement: Measurement, unit: str) -> str:
    seconds = measurement.median
    return number(1 / seconds if unit == "rounds/s" else 1000 * seconds)


def _reference(at: Measured) -> Measurement:
    ours = at.get("ours", Measurement())
    return ours if ours.result else at.get("NumPy", Measurement())


def _difference(one: Measurement, other: Measurement) -> float:
    if not one.result or not other.result or len(one.result) != len(other.result):
        return 0.0
    a, b = np.array(one.result), np.array(other.result)
    return float(np.abs(a - b).max() / np.abs(b).max())


def _notes(name: Callable[[Case], str], results: Results) -> list[str]:
    """Every failure and remark once, with the cases that it holds for."""
    found: dict[tuple[str, str], list[str]] = {}
    for case, measured in results:
        for who, each in measured.items():
            for text in filter(None, [each.error, each.note]):
                found.setdefault((who, text), []).append(name(case))
            difference = _difference(each, _reference(measured))
            if who not in BOUNDS and difference > _SAME:
                text = "\\* its result is another: its convention differs"
                found.setdefault((who, text), []).append(name(case))
    return [
        f"{who}: {text} ({'all' if len(where) == len(results) > 1 else '; '.join(where)})"
        for (who, text), where in found.items()
    ]


def _scaling(results: Results) -> list[Table]:
    makers = {
        "clients": _clients,
        "attacker": _attacker,
        "meta-step": _meta_step,
        "compilation": _compilation,
        "memory": _memory,
    }
    return [
        dataclasses.replace(table, notes=[*table.notes, *_notes_of(measured)])
        for case, measured in results
        for table in [makers[case.name](case, measured)]
    ]


def _notes_of(measured: Measured) -> list[str]:
    return [f"{who}: {m.error or m.note}" for who, m in measured.items() if m.error or m.note]


def _clients(case: Case, measured: Measured) -> Table:
    first = next(iter(measured.values()))
    return Table(
        f"clients in all, {case.settings['num_sampled']} of them sampled",
        ["clients", "rounds/s", "time, relative to the first"],
        [[who, _cell(m, "rounds/s"), number(m.ratio_to(first))] for who, m in measured.items()],
    )


def _attacker(case: Case, measured: Measured) -> Table:
    honest = measured["honest"].median
    rows = [["honest", number(1000 * honest), "", ""]]
    for steps in case.settings["attack_steps"]:
        alone = measured[f"one client, {steps} steps"].median
        attacked = measured[f"attacker, {steps} steps"].median
        expected = honest + alone
        cells = [1000 * attacked, 1000 * expected, attacked / expected]
        rows.append([f"attacker of {steps} local steps", *map(number, cells)])
    return Table(
        ATTACKER,
        ["round", "ms", "honest round + that client alone, ms", "ratio"],
        rows,
    )


def _meta_step(case: Case, measured: Measured) -> Table:
    rows, notes = [], []
    timed = {who: m for who, m in measured.items() if m.samples}
    base = next(iter(measured))
    for axis in AXES:
        points = {w: m for w, m in timed.items() if w == base or w.startswith(axis)}
        if len(points) < 2:
            continue
        rounds = np.array([m.facts["rounds"] for m in points.values()])
        seconds = np.array([m.median for m in points.values()])
        slope, start = np.polyfit(rounds, seconds, 1)
        fitted = start + slope * rounds
        for who, r, s, f in zip(points, rounds, seconds, fitted, strict=True):
            label = f"{axis} x 1" if who == base else who
            cells = [number(1000 * s), number(r / s), f"{100 * (s - f) / f:+.0f} %"]
            rows.append([label, f"{r:,.0f}", *cells])
        notes.append(
            f"{axis}: {1000 * start:.0f} ms + {1e6 * slope:.0f} us a round; largest deviation "
            f"{100 * np.abs(seconds / fitted - 1).max():.0f} %"
        )
    return Table(
        "a meta-step, by the FL rounds in it",
        ["size", "rounds", "ms", "rounds/s", "from its linear fit"],
        rows,
        notes,
    )


def _compilation(case: Case, measured: Measured) -> Table:
    return Table(
        COMPILATION,
        ["model, persistent cache", "seconds"],
        [[who, number(m.median)] for who, m in measured.items()],
    )


def _memory(case: Case, measured: Measured) -> Table:
    rows = []
    for who, m in measured.items():
        expected, used = m.facts.get("expected", math.nan), m.facts.get("used", math.nan)
        cells = [expected / 1e6, used / 1e6, used / expected]
        rows.append([who, f"{m.facts.get('parameters', 0):,}", *map(number, cells)])
    columns = ["size", "parameters", "expected, MB", "measured, MB", "measured / expected"]
    return Table(MEMORY, columns, rows)


def keep(path: Path, machine: str, made: dict[str, list[Table]]) -> None:
    """Writes the tables of some suites in long form; what the file has of others stays."""
    kept = []
    if path.exists():
        with path.open(newline="") as file:
            kept = [row for row in list(csv.reader(file))[1:] if row[0] not in made]
    for suite, tables_of_suite in made.items():
        kept.append([suite, "", "", "machine", machine])
        for table in tables_of_suite:
            for case, *cells in table.rows:
                named = zip(table.columns[1:], cells, strict=False)
                kept += [[suite, table.title, case, column, cell] for column, cell in named]
            kept += [[suite, table.title, "", "note", note] for note in table.notes]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([FIELDS, *kept])
