"""Contestants on fresh worlds, as a program: progress, tables, JSON."""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from metasg_jax import files
from metasg_jax.aggregators.client_trust import knob_of_clip, knob_of_trim
from metasg_jax.config import RunConfig
from metasg_jax.data import Dataset
from metasg_jax.errors import ConfigError
from metasg_jax.evaluation.contestants import (
    Contestant,
    parse_contestant,
)
from metasg_jax.evaluation.judge import Judged, judge, summary
from metasg_jax.evaluation.tables import markdown_table, rich_table
from metasg_jax.evaluation.worlds import SELECTION
from metasg_jax.programs.console import progress
from metasg_jax.responders import make_responder

CONTROLS = (
    "told",
    "root_only",
    "best_fixed",
    "mean",
    "median / fine_tune",
    "fltrust / fine_tune",
    "multi_krum / fine_tune",
)
"""Who stands beside a learned defence by default; ``told`` is the perfect filter."""


def beside(config: RunConfig) -> tuple[str, ...]:
    """The controls of a run; the defender that it began with is one of them."""
    return (config.begin, *CONTROLS) if config.begin else CONTROLS


GRID = tuple((clip, trim) for clip in (None, 1.5, 1.0, 0.5) for trim in (0.0, 0.15, 0.3, 0.44))
"""Clips, in median norms, and trims of the search for the best fixed knobs."""


def judge_program(
    names: Sequence[str],
    config: RunConfig,
    dataset: Dataset,
    directory: Path,
    num_worlds: int,
    selection_worlds: int,
    console: Console,
    label: str = "",
    responder: str = "none",
) -> Judged:
    """Judges, prints the table and writes results.md and results.json into ``directory``.

    Args:
        names: see :mod:`~metasg_jax.evaluation.contestants`; also ``best_fixed``, the constant
            knobs that scored best on selection worlds.
        config: what is played.
        dataset: its images.
        directory: made where it is missing.
        num_worlds: final worlds, from number 0.
        selection_worlds: for ``best_fixed``; their validation images decide.
        console: for progress.
        label: what the first contestant is called, where its name is a path.
        responder: how attackers use what they know of a contestant, see
            :func:`metasg_jax.responders.make_responder`.

    Raises:
        UnknownNameError: for a responder that is not registered.
        ConfigError: for no worlds, names that are no contestants, or a directory that can't be
            written to.
    """
    if num_worlds < 1:
        raise ConfigError(f"eval_seeds = {num_worlds}: at least 1")
    begin, n = time.perf_counter(), config.fl.num_sampled
    files.require_writable(directory)
    make_responder(responder, 1)  # raises
    parsed = {name: parse_contestant(name, n) for name in names if name != "best_fixed"}
    with progress(console, "plays") as bar:
        task = bar.add_task("judging", total=None)

        def on_progress(what, done, total):
            bar.update(task, description=f"judging: {what}", completed=done, total=total)
            if not console.is_terminal and done % len(names) == 0:
                console.print(f"judging: {done}/{total}")

        if "best_fixed" in names:
            parsed["best_fixed"] = best_fixed(config, dataset, selection_worlds, on_progress)
        contestants = [parsed[name] for name in names]
        if label:
            contestants[0] = dataclasses.replace(contestants[0], name=label)
        judged = judge(
            contestants, config, dataset, range(num_worlds), on_progress=on_progress,
            responder=responder,
        )  # fmt: skip
    game = config.game
    title = (
        f"{game.dataset}, {game.partition} {game.level:g}, {config.fl.horizon} rounds, "
        f"{num_worlds} fresh worlds, intervals of 95 % over worlds"
    )
    header, rows = summary(judged)
    console.print(rich_table(f"score = accuracy - attack success: {title}", header, rows))
    if "told" in judged.names:
        console.print(
            "told keeps exactly the honest clients and does nothing else: who is fine-tuned, too, "
            "may stand above it"
        )
    by_type = [[name, *(f"{v:.3f}" for v in judged.score[j].mean(axis=0))]
               for j, name in enumerate(judged.names)]  # fmt: skip
    console.print(rich_table("score by type", *narrow(judged)))
    page = [f"# {title}\n", markdown_table(header, rows), "\n## Score by type\n"]
    page.append(markdown_table(["defence", *judged.types], by_type))
    files.write_text(directory / "results.md", "\n".join(page))
    files.write_text(directory / "results.json", json.dumps(judged.to_json(), indent=1) + "\n")
    console.print(
        f"judged in {time.perf_counter() - begin:.0f} s; results.md and results.json are in "
        f"{directory}"
    )
    return judged


def judged_plays(config: RunConfig, worlds: int, selection_worlds: int) -> int:
    """How often the judge of a taught defender plays a contestant in a world."""
    names = beside(config)
    return (1 + len(names)) * worlds + len(GRID) * selection_worlds * ("best_fixed" in names)


def narrow(judged: Judged) -> tuple[list[str], list[list[str]]]:
    """Header and rows by type that fit a terminal: the first contestant, and the best other ones.

    The perfect filter has a column of its own; of the rest only the best of each type is shown.
    """
    scores = judged.score.mean(axis=1)
    shown = [0] + [j for j, name in enumerate(judged.names) if name == "told" and j]
    rest = [j for j in range(len(judged.names)) if j not in shown]
    header = ["type", *(judged.names[j] for j in shown), *(["best of the others"] if rest else [])]
    rows = []
    for k, name in enumerate(judged.types):
        row = [name, *(f"{scores[j, k]:.3f}" for j in shown)]
        if rest:
            best = max(rest, key=lambda j, k=k: scores[j, k])
            row.append(f"{scores[best, k]:.3f}  {judged.names[best]}")
        rows.append(row)
    return header, rows


def best_fixed(config: RunConfig, dataset: Dataset, worlds: int, on_progress) -> Contestant:
    """The constant knobs of :data:`GRID` with the best mean score on selection worlds.

    Raises:
        ConfigError: for no selection worlds.
    """
    if worlds < 1:
        raise ConfigError(f"selection_seeds = {worlds}: at least 1 for best_fixed")
    grid = [
        Contestant(
            f"best fixed knobs: {'no clip' if clip is None else f'clip {clip:g}'}, trim {trim:g}",
            "constant",
            knobs=(1.0 if clip is None else knob_of_clip(clip), knob_of_trim(trim), -1.0),
        )
        for clip, trim in GRID
    ]
    judged = judge(grid, config, dataset, range(worlds), SELECTION, "validation", on_progress)
    return max(zip(grid, range(len(grid)), strict=True), key=lambda g: judged.mean(g[1]).mean())[0]
