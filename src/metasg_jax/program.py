"""Pre-training and evaluation as programs: progress, files, resumption. The library does none."""

import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from tensorboardX import SummaryWriter

from metasg_jax import checkpoint, runs
from metasg_jax.config import RunConfig
from metasg_jax.data import Dataset
from metasg_jax.data import cache as data_cache
from metasg_jax.errors import CheckpointError, NonFinitePolicyError
from metasg_jax.evaluation.evaluate import evaluate
from metasg_jax.evaluation.plots import accuracy_curves, learning_curve
from metasg_jax.evaluation.tables import (
    Results,
    markdown_table,
    rich_table,
    summary_rows,
    type_rows,
    write_csv,
)
from metasg_jax.game.make import make_game
from metasg_jax.game.types import parse_type
from metasg_jax.learning.pretrain import pretrain
from metasg_jax.learning.state import MetaSGState, init_state


def enable_compilation_cache() -> None:
    """Keeps compiled programs between runs, beside the data cache."""
    folder = data_cache.directory(None) / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def rounds_per_step(config: RunConfig) -> int:
    """FL rounds of one meta-step, all types enumerated; adaptive types' responses included."""
    meta, kinds = config.meta, len(config.game.types)
    rollouts = meta.group_size * meta.num_groups * config.fl.horizon
    if meta.algorithm == "meta_rl":
        return kinds * meta.adapt_steps * rollouts
    specs = [parse_type(text, config.fl.num_clients) for text in config.game.types]
    adaptive = sum(spec.adaptive for spec in specs)
    return (kinds * (meta.adapt_steps + 1) + adaptive * meta.attacker_steps) * rollouts


def pretrain_program(
    config: RunConfig, dataset: Dataset, directory: Path, resume: bool, console: Console
) -> MetaSGState:
    """Pre-trains into ``directory``, a checkpoint every chunk.

    The result does not depend on chunks, nor on how often the run was cut and resumed.

    Raises:
        CheckpointError: when resuming from other settings, or a save fails (nothing is lost).
        NonFinitePolicyError: names the meta-step after which the policy is no longer finite.
    """
    config.check()
    checkpoints = directory / "checkpoints"
    game = make_game(config.game, config.fl, dataset)
    key_init, key_steps = jax.random.split(jax.random.key(config.seed))
    state = init_state(key_init, game, config.meta)
    rows: list[dict] = []
    if resume:
        if checkpoint.latest_step(checkpoints) is None:
            console.print(f"nothing to resume in {directory}: beginning anew")
        else:
            state = checkpoint.load(checkpoints, state, config)
            rows = runs.keep_metrics_until(directory, state.num_steps)
            console.print(f"resumed {directory} after meta-step {state.num_steps}")
    runs.write_config(directory, config)
    per_step = rounds_per_step(config)
    with SummaryWriter(str(directory)) as events, _progress(console, "{task.fields[note]}") as bar:
        task = bar.add_task(
            "meta-steps", total=config.steps, completed=state.num_steps, note="compiling"
        )
        while state.num_steps < config.steps:
            first = state.num_steps
            count = min(config.chunk - first % config.chunk, config.steps - first)
            begin = time.perf_counter()
            state, info = pretrain(key_steps, state, game, config.meta, count)
            info = jax.tree.map(np.asarray, jax.block_until_ready(info))
            seconds = time.perf_counter() - begin
            new = _metric_rows(info, first, seconds / count, per_step)
            _require_finite(info, first, checkpoints)
            # lines first: resuming drops those past the checkpoint, but can't make missing ones
            runs.append_metrics(directory, new)
            checkpoint.save(checkpoints, state.num_steps, state, config)
            for row in new:
                for name, value in row.items():
                    if name != "step" and isinstance(value, float):
                        events.add_scalar(name, value, row["step"])
            rows += new
            speed = per_step * count / seconds
            note = f"reward {new[-1]['return_D']:+.3f}  {speed:,.0f} rounds/s"
            bar.update(task, completed=state.num_steps, note=note)
            if not console.is_terminal:
                console.print(f"meta-step {state.num_steps}/{config.steps}  {note}")
    if rows:
        columns = {name: np.array([r[name] for r in rows]) for name in rows[0] if name != "types"}
        learning_curve(
            columns["step"], columns["return_D"], columns["final_D"], directory / "learning.png"
        )
    return state


def evaluate_program(
    state: MetaSGState,
    config: RunConfig,
    dataset: Dataset,
    directory: Path,
    num_seeds: int,
    grid: tuple[int, int, int],
    selection_seeds: int,
    console: Console,
) -> Results:
    """Evaluates, prints the tables and writes results.md, results.csv and accuracy.png."""
    begin = time.perf_counter()
    with _progress(console, "worlds") as bar:
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
    parts = [f"# {title}\n", markdown_table(*summary)]
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
        note = (
            f"best fixed action: {named} (of {len(search.actions)}, on {len(search.scores)} "
            "selection worlds); oracle: the best of them for each type"
        )
        console.print(note)
        parts.append(f"\n{note}\n")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.md").write_text("\n".join(parts))
    write_csv(results, directory / "results.csv")
    accuracy_curves(results, directory / "accuracy.png")
    console.print(
        f"evaluated in {seconds:.0f} s; results.md, results.csv and accuracy.png are in {directory}"
    )
    return results


def load_run(directory: Path) -> tuple[RunConfig, Path]:
    """The settings of a run that has a checkpoint, and where that is."""
    checkpoints = directory / "checkpoints"
    if checkpoint.latest_step(checkpoints) is None:
        raise CheckpointError(f"there is no complete checkpoint in {directory}")
    return checkpoint.load_config(checkpoints), checkpoints


def load_state(config: RunConfig, checkpoints: Path, dataset: Dataset) -> MetaSGState:
    """The newest state of a run."""
    game = make_game(config.game, config.fl, dataset)
    return checkpoint.load(checkpoints, init_state(jax.random.key(0), game, config.meta), config)


def _metric_rows(info: dict, first: int, seconds: float, per_step: int) -> list[dict]:
    rows = []
    for i in range(len(info["finite"])):
        row: dict = {"step": first + i + 1, "seconds": seconds, "rounds_per_s": per_step / seconds}
        for name, value in info.items():
            if name == "finite":
                continue
            if np.ndim(value[i]) == 0:
                row[name] = float(value[i])
            else:
                row.setdefault("types", {})[name.removeprefix("type/")] = value[i].tolist()
        rows.append(row)
    return rows


def _require_finite(info: dict, first: int, checkpoints: Path) -> None:
    if info["finite"].all():
        return
    step = first + int(np.argmin(info["finite"])) + 1
    good = checkpoint.latest_step(checkpoints)
    saved = "there is no checkpoint before it" if good is None else f"checkpoint {good} is good"
    raise NonFinitePolicyError(
        f"the policy is no longer finite after meta-step {step} ({saved}): lower meta.outer_lr, "
        "meta.adapt_lr or meta.defender_lr, or set meta.max_grad_norm"
    )


def _progress(console: Console, note: str) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn(note),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
