"""`metasg certify` as a program: a certificate of a run's checkpoints, resumable."""

import dataclasses
import time
from pathlib import Path

import jax
from rich.console import Console

from metasg_jax import checkpoint
from metasg_jax.config import RunConfig
from metasg_jax.data import Dataset
from metasg_jax.errors import CheckpointError
from metasg_jax.files import require_writable
from metasg_jax.game.make import make_game
from metasg_jax.learning.state import init_state
from metasg_jax.programs.certify.measure import Budget, certify_state, digest, plays
from metasg_jax.programs.certify.page import report
from metasg_jax.programs.certify.rows import PRIOR, Row, pick, read_rows, write_rows
from metasg_jax.programs.console import progress


def find_checkpoints(path: Path) -> tuple[Path, list[int]]:
    """(the run's directory, the steps that ``path`` names): a run's, or one of its checkpoints.

    Raises:
        CheckpointError: where there is none.
    """
    if path.parent.name == "checkpoints" and path.name.isdigit():
        run, wanted = path.parent.parent, int(path.name)
    else:
        run, wanted = path.parent if path.name == "checkpoints" else path, None
    steps = checkpoint.saved_steps(run / "checkpoints")
    if not steps:
        raise CheckpointError(
            f"there is no complete checkpoint in {run}: name a run's directory, or one of its "
            "checkpoints, <run>/checkpoints/<step>"
        )
    if wanted is None:
        return run, steps
    if wanted not in steps:
        raise CheckpointError(
            f"there is no checkpoint of step {wanted} in {run}; there are: "
            f"{', '.join(map(str, steps))}"
        )
    return run, [wanted]


def certify_program(
    run: Path,
    steps: list[int],
    config: RunConfig,
    dataset: Dataset,
    budget: Budget,
    directory: Path,
    console: Console,
) -> list[Row]:
    """Certifies checkpoints of a run; prints tables and writes certify.md, .csv and .png.

    A checkpoint whose rows with the same budget are in the CSV is not computed again.

    Raises:
        CheckpointError: for checkpoints that can't be read.
        ConfigError: where the run or the budget can't be certified.
    """
    budget.check(config.meta)
    require_writable(directory)
    begin = time.perf_counter()
    file = directory / "certify.csv"
    game = make_game(config.game, config.fl, dataset)
    blank = init_state(jax.random.key(0), game, config.meta)
    known = read_rows(file)
    rows: list[Row] = []
    each, computed = plays(game, budget), 0
    with progress(console, "{task.fields[note]}") as bar:
        task = bar.add_task("certifying", total=each * len(steps), note="compiling")
        for i, step in enumerate(steps):
            state = checkpoint.load(run / "checkpoints", blank, config, step)
            mark = (step, digest(state), *dataclasses.astuple(budget))
            new = [row for row in known if row.mark == mark]
            if not new:
                start = time.perf_counter()

                def advance(what, step=step):
                    bar.update(task, advance=1, note=f"step {step}: {what}")

                new = certify_state(state, game, config.meta, budget, advance)
                known = [*known, *new]
                write_rows(known, file)
                computed += 1
                note = f"{time.perf_counter() - start:.0f} s"
            else:
                note = "known"
            bar.update(task, completed=each * (i + 1))
            if not console.is_terminal:
                headline = pick(new, PRIOR, "defender")
                console.print(f"step {step} ({i + 1}/{len(steps)}, {note}): {headline.text}")
            rows += new
    report(rows, config, game, budget, directory, console)
    rest = ", the others were known" if computed < len(steps) else ""
    console.print(
        f"certified {computed} of {len(steps)} checkpoints in {time.perf_counter() - begin:.0f} s"
        f"{rest}; certify.md, certify.csv and certify.png are in {directory}"
    )
    return rows
