"""The command of an experiment: trains, plays worlds side by side, writes the page; resumable."""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import tyro
from pages import opening, write_page
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from metasg_jax.data import load
from metasg_jax.programs.device import enable_compilation_cache
from study.jobs import pinned
from study.report import Outcomes, section
from study.settings import LEARNERS, Study
from study.stages import STAGES, Place, number_of_worlds
from study.training import is_finished, train

Studies = dict[str, Study]


@dataclasses.dataclass(frozen=True)
class Run:
    """How it is run; nothing here changes a result."""

    stage: Literal["all", "train", "play", "report"] = "all"
    """One stage, or all of them in order; what is there already is not done again."""
    studies: tuple[str, ...] = ()
    """Of those of this experiment, by name; all by default. The page needs all of them."""
    workers: int = 2
    """Processes side by side, one a core."""
    runs: Path = Path("runs/learners")
    """Where pre-training runs are kept; experiments share them."""
    outcomes: Path = Path("runs/studies")
    """Where the outcomes of worlds are kept."""
    out: Path = Path("docs/results")
    """Where the page, its figures and its settings are put."""

    def place(self, studies: Studies, name: str) -> Place:
        """Of a study."""
        return Place(studies[name], self.outcomes / name, self.runs)


_UNITS = "--units"
Extra = Callable[[dict[str, Outcomes], Path], str]


def main(page: str, studies: Studies, about: str, extra: Extra | None = None) -> None:
    """The whole command.

    Args:
        page: name of the page, its figures and its settings, in ``docs/results``.
        studies: by name.
        about: docstring of the experiment: a title, usage, and what the page says first.
        extra: further sections made of all outcomes; it may write figures into the folder.
    """
    arguments, units = _split(sys.argv[1:])
    run = tyro.cli(Run, args=arguments, description=about)
    console = Console(soft_wrap=True)
    for name in run.studies:
        if name not in studies:
            raise SystemExit(f"studies: {name!r} is none of {', '.join(studies)}")
    if units:
        work(run, studies, units)
        return
    names = run.studies or tuple(studies)
    if run.stage in ("all", "train"):
        jobs = [
            (learner, seed)
            for name in names
            for seed in studies[name].training_seeds
            for learner in studies[name].learners
        ]
        train(dict.fromkeys(jobs), run.runs, run.workers, console)
    if run.stage in ("all", "play"):
        play(run, studies, names, console)
    if run.stage == "report" or (run.stage == "all" and set(names) == set(studies)):
        report(page, run, studies, about, extra, console)
    elif run.stage == "all":
        console.print("no page: it needs all studies; run --stage report once they are played")


def play(run: Run, studies: Studies, names: tuple[str, ...], console: Console) -> None:
    """Plays what has not been played, stage after stage, by pinned workers.

    Raises:
        SystemExit: for learners that are not trained, before anything is played; and for worlds
            that could not be played.
    """
    wanted = {(n, seed) for s in names for seed in studies[s].training_seeds
              for n in studies[s].learners}  # fmt: skip
    untrained = sorted(f"{n}-{seed}" for n, seed in wanted if not is_finished(n, seed, run.runs))
    if untrained:
        raise SystemExit(f"not trained yet: {', '.join(untrained)}; run the stage train")
    for stage in STAGES:
        by_file = {
            run.place(studies, name).file(stage, s): f"{name}/{stage}/{s}"
            for name in names
            for s in range(number_of_worlds(studies[name], stage))
        }
        units = [unit for unit in by_file.values() if not _done(run, studies, unit)]
        if not units:
            continue
        begin = time.perf_counter()
        shares = [units[i :: run.workers] for i in range(min(run.workers, len(units)))]
        workers = [
            subprocess.Popen([*pinned(i), sys.executable, *sys.argv, _UNITS, *share])
            for i, share in enumerate(shares)
        ]
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task(stage, total=len(units))
            while any(worker.poll() is None for worker in workers):
                time.sleep(0.5)
                bar.update(task, completed=sum(_done(run, studies, unit) for unit in units))
        missing = [unit for unit in units if not _done(run, studies, unit)]
        if missing:
            raise SystemExit(f"not played: {', '.join(missing)} (see above); the rest is kept")
        console.print(f"{stage}: {len(units)} worlds in {time.perf_counter() - begin:.0f} s")


def _done(run: Run, studies: Studies, unit: str) -> bool:
    name, stage, s = unit.split("/")
    return run.place(studies, name).is_played(stage, int(s))


def commit() -> str:
    """The short name of the repository's present commit; ``unknown`` outside of one."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """(what a person said, the worlds ``study/stage/seed`` that a worker is told to play)."""
    place = argv.index(_UNITS) if _UNITS in argv else len(argv)
    return argv[:place], argv[place + 1 :]


def work(run: Run, studies: Studies, units: list[str]) -> None:
    """Plays the worlds that it is told to; each is kept as it ends."""
    enable_compilation_cache()
    datasets = {}
    for unit in units:
        name, stage, s = unit.split("/")
        place = run.place(studies, name)
        kind = studies[name].world.game.dataset
        if kind not in datasets:
            datasets[kind] = load(kind)
        begin = time.perf_counter()
        found = STAGES[stage](place, datasets[kind], int(s))
        seconds = time.perf_counter() - begin
        place.save(stage, int(s), found, seconds)
        print(f"{unit}: {seconds:.0f} s", flush=True)


def settings(studies: Studies) -> dict:
    """What is registered, as it is kept beside the page: studies, and the learners they name."""
    learners = {name: LEARNERS[name] for study in studies.values() for name in study.learners}
    registered = {"studies": studies, "learners": learners}
    as_dicts = {
        kind: {name: dataclasses.asdict(each) for name, each in table.items()}
        for kind, table in registered.items()
    }
    return json.loads(json.dumps(as_dicts))


def report(
    page: str, run: Run, studies: Studies, about: str, extra: Extra | None, console: Console
) -> None:
    """Writes the page, its figures and its settings."""
    run.out.mkdir(parents=True, exist_ok=True)
    outcomes = {name: Outcomes.read(run.place(studies, name)) for name in studies}
    seconds = sum(each.seconds for each in outcomes.values())
    lines = opening(
        about,
        f"; what is registered is in [{page}.json]({page}.json). Playing the worlds took "
        f"{seconds / 60:.0f} minutes on one core, training apart. Written at commit {commit()}.",
    )
    if extra is not None:
        lines.append(extra(outcomes, run.out))
    for name in studies:
        lines.append(section(outcomes[name], run.out / f"{page}-{name}.png", console))
    write_page(run.out / f"{page}.md", "\n".join(lines) + "\n")
    text = json.dumps(settings(studies), indent=1) + "\n"
    (run.out / f"{page}.json").write_text(text)
    console.print(f"written to {run.out / f'{page}.md'}")
