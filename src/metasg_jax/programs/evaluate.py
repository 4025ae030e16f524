"""Judges a run of the paper's game on fresh worlds, and writes tables and plots beside it."""

import time
from pathlib import Path

from rich.console import Console

from metasg_jax import files
from metasg_jax.config import RunConfig
from metasg_jax.data import Dataset
from metasg_jax.evaluation.evaluate import evaluate
from metasg_jax.evaluation.plots import accuracy_curves
from metasg_jax.evaluation.tables import (
    Results,
    markdown_table,
    rich_table,
    summary_rows,
    type_rows,
    write_csv,
)
from metasg_jax.files import require_writable
from metasg_jax.learning.state import MetaSGState
from metasg_jax.programs.console import progress


def evaluate_program(
    state: MetaSGState,
    config: RunConfig,
    dataset: Dataset,
    directory: Path,
    num_seeds: int,
    grid: tuple[int, int, int],
    selection_seeds: int,
    console: Console,
    note: str = "",
) -> Results:
    """Evaluates, prints the tables and writes results.md, results.csv and accuracy.png.

    ``note`` stands above the page and the picture.
    """
    require_writable(directory)
    begin = time.perf_counter()
    with progress(console, "worlds") as bar:
        task = bar.add_task("evaluating", total=None)

        def on_progress(what, done, total):
            bar.update(task, description=f"evaluating: {what}", completed=done, total=total)
            if not console.is_terminal:
                console.print(f"evaluating: {what} {done}/{total}")

        results, search = evaluate(
            state, config, dataset, num_seeds, grid, selection_seeds, on_progress
        )
    seconds = time.perf_counter() - begin
    summary = summary_rows(results)
    title = (
        f"{config.game.dataset}, q or level {config.game.level:g}, {config.fl.horizon} rounds, "
        f"{num_seeds} fresh worlds, after {state.num_steps} meta-steps"
    )
    parts = [f"# {title}\n", *([f"**{note}**\n"] if note else []), markdown_table(*summary)]
    for quantity in ("score", "accuracy", "asr"):
        header, body = type_rows(results, quantity)
        parts.append(f"\n## {quantity} by type (mean ± standard error over worlds)\n")
        parts.append(markdown_table(header, body))
        if len(header) > 1:
            console.print(rich_table(f"{quantity} by type", header, body))
    console.print(rich_table(f"score = accuracy - attack success: {title}", *summary))
    if search is not None:
        named = ", ".join(
            f"{n} {a:+.2f}" for n, a in zip(results.action_names, search.best, strict=True)
        )
        chosen = (
            f"best fixed action: {named} (of {len(search.actions)}, on {len(search.scores)} "
            "selection worlds); oracle: the best of them for each type"
        )
        console.print(chosen)
        parts.append(f"\n{chosen}\n")
    files.write_text(directory / "results.md", "\n".join(parts))
    write_csv(results, directory / "results.csv")
    accuracy_curves(results, directory / "accuracy.png", note)
    console.print(
        f"evaluated in {seconds:.0f} s; results.md, results.csv and accuracy.png are in {directory}"
    )
    return results
