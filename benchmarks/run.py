"""Measures ours, the peers and the floor in one run, and prints medians and ratios.

`make bench` makes the peers' environment and runs everything. Time it on a quiet machine. Every
ratio comes from interleaved repetitions, so it holds where the absolute numbers do not.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from benchmarks import page, report
from benchmarks.cases import SUITES, Case, cases
from benchmarks.measure import Measured, Measurement, measure
from benchmarks.process import ROOT, Process


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured, and where it goes."""

    suite: tuple[Literal["rounds", "rules", "game", "scaling"], ...] = SUITES
    """Suites, one or more."""
    repetitions: int = 5
    """Repetitions of each contestant; slow ones get fewer."""
    only: tuple[str, ...] = ()
    """Cases whose "suite: name" contains one of these texts; all by default."""
    quick: bool = False
    """Toy sizes that show that everything runs; their numbers mean nothing."""
    peers: bool = True
    """Whether to ask the peers."""
    peers_python: Path = Path(".venv-bench/bin/python")
    """Interpreter of the environment that holds the peers."""
    write: Path | None = None
    """A CSV file for the tables; what it has of other suites stays."""
    json: Path | None = None
    """A file for all samples."""


def main(options: Options) -> list[tuple[Case, Measured]]:
    """Measures, prints and writes."""
    console = Console()
    chosen = [
        case
        for suite in options.suite
        for case in cases(suite, options.quick)
        if not options.only or any(text in str(case) for text in options.only)
    ]
    if not chosen:
        raise SystemExit(f"no case contains any of {', '.join(options.only)}")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = folder / "errors.txt"
        processes = [Process(Path(sys.executable), "benchmarks.ours", log)]
        missing = "" if options.peers else "left out by --no-peers"
        # not resolved: a virtual environment's interpreter is a link
        python = ROOT / options.peers_python
        if options.peers and not python.exists():
            missing = f"not installed: there is no {options.peers_python}"
        if not missing:
            processes.append(Process(python, "benchmarks.peers", log))
        for process in processes:
            stack.callback(process.close)
        versions = {name: v for process in processes for name, v in process.versions().items()}
        if missing:
            console.print(f"peers: {missing}")
        results: list[tuple[Case, Measured]] = []
        with _progress(console) as bar:
            task = bar.add_task("", total=len(chosen))
            for case in chosen:
                begin = time.perf_counter()
                smaller = next(
                    (m for c, m in results if case.grows_from and c.name == case.grows_from[0]),
                    None,
                )
                measured = measure(
                    case,
                    processes,
                    options.repetitions,
                    smaller,
                    lambda what: bar.update(task, description=what),
                )
                if missing and case.suite in ("rounds", "rules"):
                    measured[report.ABSENT] = Measurement(error=missing)
                results.append((case, measured))
                bar.advance(task)
                if not console.is_terminal:
                    seconds = time.perf_counter() - begin
                    console.print(f"{len(results)}/{len(chosen)} {case} ({seconds:.0f} s)")
        if log.exists() and any(m.error for _, measured in results for m in measured.values()):
            console.print(f"errors of the workers:\n{log.read_text()[-4000:]}", markup=False)
    sections = {
        suite: report.tables(suite, part)
        for suite in options.suite
        if (part := [(case, m) for case, m in results if case.suite == suite])
    }
    for made in sections.values():
        for table in made:
            _show(console, table)
    console.print(_machine(versions), highlight=False)
    if options.write is not None:
        report.keep(options.write, _machine(versions), sections)
        console.print(f"wrote {options.write}")
        if written := page.write(options.write):
            console.print(f"wrote {written}")
    if options.json is not None:
        rows = [
            {"case": str(case), "contestant": name, **dataclasses.asdict(m)}
            for case, measured in results
            for name, m in measured.items()
        ]
        options.json.write_text(json.dumps({"versions": versions, "results": rows}, indent=1))
        console.print(f"wrote {options.json}")
    return results


def _progress(console: Console) -> Progress:
    return Progress(
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
    )


def _show(console: Console, table: report.Table) -> None:
    if len(table.columns) > 6:
        table = table.transposed()
    shown = RichTable(title=table.title, title_justify="left", box=SIMPLE)
    for i, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if i else "left")
    for row in table.rows:
        shown.add_row(*(cell.replace("\\*", "*") for cell in row))
    console.print(shown)
    for note in table.notes:
        console.print(f"  {note}", markup=False, highlight=False)


def _machine(versions: dict[str, str]) -> str:
    """Processor, cores, date and versions, in a sentence each."""
    processor = platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        processor = f"{models[0]} ({processor})" if models else processor
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{processor}, {os.cpu_count()} cores, {datetime.date.today():%Y-%m-%d}. "
        f"Python {platform.python_version()}, {packages}."
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
