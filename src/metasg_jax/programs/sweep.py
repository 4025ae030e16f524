"""``metasg sweep`` as a program: runs over attacks, rules, seeds and settings, a file a run.

A run's file is named by all that it depends on. So the same command goes on where one was stopped,
and a larger sweep, or another one in the same directory, plays only what no sweep there has played.

Runs are played one after another, a world at a time in memory; those that differ in seeds and in
traced numbers share a compiled program.
"""

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from metasg_jax import files
from metasg_jax.checkpoint import mark
from metasg_jax.config import FLConfig, GameConfig
from metasg_jax.config.text import read_field
from metasg_jax.data import Dataset
from metasg_jax.errors import CheckpointError, ConfigError
from metasg_jax.evaluation import matrix
from metasg_jax.evaluation.statistics import mean_se
from metasg_jax.evaluation.tables import markdown_table, rich_table, with_error
from metasg_jax.game.shapes import of_shared_shape
from metasg_jax.programs.console import progress
from metasg_jax.programs.device import forget_many_programs
from metasg_jax.programs.lock import alone
from metasg_jax.programs.simulate import Plan
from metasg_jax.registry import unknown_name

QUANTITIES = ("accuracy", "asr", "score")
ELSEWHERE = {
    "game.types": "--attacks",
    "game.rule": "--defenses",
    "game.post_defense": "--posts",
    "game.dataset": "--dataset",
    "game.seed": "--seeds",
    "fl.horizon": "--rounds",
}
"""Fields that have a flag of their own."""
NOT_READ = (
    "game.probabilities", "game.observation", "game.reward", "game.loss", "game.backdoor_weight",
)  # fmt: skip
"""Fields that change nothing where a rule stands still."""
SHOWN = 40
"""Rows of a table that a terminal is given."""


class Point(NamedTuple):
    """Settings of the fields that vary.

    Attributes:
        values: their texts, in the order of the fields.
        plan: with these settings.
    """

    values: tuple[str, ...]
    plan: Plan


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is played: every attack, rule, post-training defence and seed at every point.

    Attributes:
        plan: of these, and of the settings that stand still.
        varied: values by field, as texts; a field is ``game.NAME`` or ``fl.NAME``.
    """

    plan: Plan
    varied: dict[str, tuple[str, ...]]

    def points(self) -> list[Point]:
        """Every combination of values; the last field varies fastest.

        Raises:
            UnknownNameError: for a field that is none.
            ConfigError: for a field that is not read here, a value that is none of its type or is
                there twice, and settings out of range.
        """
        choices = [
            [(name, text, _value(name, text)) for text in _once(name, texts)]
            for name, texts in self.varied.items()
        ]
        points = []
        for chosen in itertools.product(*choices):
            plan = self.plan
            for name, _, value in chosen:
                room, _, field = name.partition(".")
                changed = dataclasses.replace(getattr(plan, room), **{field: value})
                plan = dataclasses.replace(plan, **{room: changed})
            plan.check()
            points.append(Point(tuple(text for _, text, _ in chosen), plan))
        return points


def parse_varied(groups: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Values by field, of groups of a field's name and its values.

    Raises:
        ConfigError: for a group without values, and a field that is there twice.

    Example:
        >>> parse_varied([("fl.local-lr", "0.1", "0.3")])
        {'fl.local_lr': ('0.1', '0.3')}
    """
    varied: dict[str, tuple[str, ...]] = {}
    for group in groups:
        if len(group) < 2:
            raise ConfigError(
                f"vary = {' '.join(group)!r}: a field and its values, as in fl.local_lr 0.1 0.3"
            )
        name = group[0].replace("-", "_")
        if name in varied:
            raise ConfigError(f"vary: {name} is there twice; name all its values at once")
        varied[name] = tuple(group[1:])
    return varied


def _value(name: str, text: str):
    """What the text of a field stands for."""
    known = {
        f"{room}.{each.name}": (cls, each.name)
        for room, cls in (("game", GameConfig), ("fl", FLConfig))
        for each in dataclasses.fields(cls)
    }
    if name in ELSEWHERE:
        raise ConfigError(f"vary: {name} has a flag of its own, use {ELSEWHERE[name]}")
    if name in NOT_READ:
        raise ConfigError(f"vary: {name} changes nothing where a rule stands still")
    free = [each for each in known if each not in ELSEWHERE and each not in NOT_READ]
    if name not in known:
        raise unknown_name("field to vary", name, free)
    return read_field(*known[name], text, f"vary: {name} = {text!r}")


def _once(name: str, texts: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(texts)) < len(texts):
        raise ConfigError(f"vary: {name} = {' '.join(texts)}: each value only once")
    return texts


class Run(NamedTuple):
    """One run behind one post-training defence: what a file is about."""

    point: int
    seed: int
    rule: str
    attack: str
    post: str


def sweep_program(
    sweep: Sweep, dataset: Dataset, out: Path, console: Console, command: str = "metasg sweep"
) -> list[dict]:
    """Plays what is missing, and writes ``sweep.md`` and ``sweep.json`` of all that was asked for.

    Args:
        sweep: what is played.
        dataset: the images.
        out: directory of the tables; a file a run is in ``runs`` there.
        console: where progress and the table are shown.
        command: what the report says it was made with.

    Returns:
        Rows of ``sweep.json``.

    Raises:
        ConfigError: before anything is played, for settings that can't be, and an ``out`` that
            can't be written to.
        UnknownNameError: likewise, for names that are not registered.
        CheckpointError: for a file of a run that is damaged, or an ``out`` that another process
            writes to.
    """
    done = play_sweep(sweep, dataset, out, console)
    rows = _rows(sweep, done)
    files.write_json(out / "sweep.json", {"command": command, "rows": rows})
    header, body = _table(sweep, rows)
    seconds = seconds_of_play(sweep.plan, done)
    files.write_text(out / "sweep.md", _report(sweep, rows, header, body, seconds, command))
    console.print(rich_table(f"{min(SHOWN, len(body))} of {len(body)} rows", header, body[:SHOWN]))
    console.print(f"sweep.md and sweep.json are in {out}")
    return rows


def play_sweep(sweep: Sweep, dataset: Dataset, out: Path, console: Console) -> dict[Run, dict]:
    """Plays what is missing in ``out``, with it to itself; what each run asked for came to.

    Raises:
        ConfigError, UnknownNameError, CheckpointError: as :func:`sweep_program`.
    """
    points = sweep.points()
    for point in points:  # what only a world can tell: sizes of images, numbers of them
        point.plan.make_rules(point.plan.world(dataset, 0))
        point.plan.make_posts()
    for folder in (out, out / "runs"):
        files.require_writable(folder)
    asked = [
        Run(p, seed, rule, attack, post)
        for p, point in enumerate(points)
        for seed in range(point.plan.seeds)
        for rule in point.plan.rules
        for attack in point.plan.attacks
        for post in point.plan.posts
    ]
    paths = {run: out / "runs" / f"{_name(points, run)}.json" for run in asked}
    with alone(out):
        found = {run: read_run(path, _about(points, run)) for run, path in paths.items()}
        done = {run: outcome for run, outcome in found.items() if outcome is not None}
        if done:
            console.print(f"{len(done)} of {len(asked)} runs are in {out} already")
        _play(points, paths, done, dataset, console)
    return {run: done[run] for run in asked}


def seconds_of_play(plan: Plan, done: dict[Run, dict]) -> float:
    """Seconds of all runs; those that differ in the post-training defence only were played once."""
    return sum(outcome["seconds"] for outcome in done.values()) / len(plan.posts)


def read_run(path: Path, about: dict) -> dict | None:
    """What a run came to; None where it has not been played.

    Raises:
        CheckpointError: for a file that is damaged, or of another run.
    """
    if not path.is_file():
        return None
    try:
        tree = files.read_json(path)
        if tree.get("run") != json.loads(json.dumps(about)):
            raise CheckpointError(f"{path} is damaged: it is about another run")
    except CheckpointError as error:
        raise CheckpointError(f"{error}; remove it, and the run is played again") from None
    return tree["outcome"]


def _about(points: Sequence[Point], run: Run) -> dict:
    """All that a run's outcome depends on."""
    settings = points[run.point].plan.to_json()
    return settings | {name: getattr(run, name) for name in ("attack", "rule", "post", "seed")}


def _name(points: Sequence[Point], run: Run) -> str:
    return mark(_about(points, run))[:16]


def _play(points, paths: dict[Run, Path], done: dict, dataset: Dataset, console: Console) -> None:
    """Plays what is not ``done``, and adds it there and to the files; a world at a time is held."""
    groups = list(_groups(paths))
    todo = [group for group in groups if not all(run in done for run in group)]
    number, total = len(groups) - len(todo), len(groups)
    with progress(console, "{task.fields[note]}") as bar:
        task = bar.add_task("runs", total=total, completed=number, note="")
        for (point, seed), same in itertools.groupby(todo, lambda group: group[0][:2]):
            forget_many_programs()
            values, plan = points[point]
            world = of_shared_shape(plan.world(dataset, seed))
            rules, posts = plan.make_rules(world), plan.make_posts()
            for group in same:
                first = group[0]
                said = ", ".join([f"{first.rule} against {first.attack}, seed {seed}", *values])
                bar.update(task, note=said)
                start = time.perf_counter()
                metrics = matrix.play_cell(
                    jax.random.key(seed),
                    world.replace(rule=rules[first.rule]),
                    jnp.int32(plan.attacks.index(first.attack)),
                    posts,
                    num_rounds=plan.rounds,
                )
                metrics = jax.tree.map(np.asarray, metrics)
                seconds = time.perf_counter() - start
                for p, run in enumerate(group):
                    if run not in done:
                        done[run] = _outcome(metrics, p, seconds)
                        tree = {"run": _about(points, run), "outcome": done[run]}
                        files.write_json(paths[run], tree)
                number += 1
                bar.update(task, advance=1)
                if not console.is_terminal:
                    score = f"score {done[first]['score']:.3f}, {seconds:.1f} s"
                    console.print(f"{number}/{total} {said}: {score}")


def _groups(runs) -> Iterator[tuple[Run, ...]]:
    """Runs that differ in the post-training defence only: they are one run of rounds."""
    for _, group in itertools.groupby(
        runs, lambda run: (run.point, run.seed, run.rule, run.attack)
    ):
        yield tuple(group)


def _outcome(metrics, p: int, seconds: float) -> dict:
    numbers = {name: float(getattr(metrics, name)[p]) for name in QUANTITIES}
    return {
        **{name: None if math.isnan(value) else value for name, value in numbers.items()},
        "diverged": bool(metrics.diverged[p]),
        "seconds": round(seconds, 3),
    }


def _rows(sweep: Sweep, done: dict[Run, dict]) -> list[dict]:
    """A row for each point, attack, rule and post-training defence, with the numbers by seed."""
    plan, rows = sweep.plan, []
    for p, point in enumerate(sweep.points()):
        for attack, rule, post in itertools.product(plan.attacks, plan.rules, plan.posts):
            runs = [done[Run(p, seed, rule, attack, post)] for seed in range(plan.seeds)]
            rows.append(
                {
                    **dict(zip(sweep.varied, point.values, strict=True)),
                    "attack": attack,
                    "defense": rule,
                    "post": post,
                    **{name: [run[name] for run in runs] for name in (*QUANTITIES, "diverged")},
                }
            )
    return rows


def _moving(sweep: Sweep) -> list[str]:
    """Columns that say which run it is, of what has more than one value."""
    axes = {
        **sweep.varied,
        "attack": sweep.plan.attacks,
        "defense": sweep.plan.rules,
        "post": sweep.plan.posts,
    }
    return [name for name, values in axes.items() if len(values) > 1]


def _table(sweep: Sweep, rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: what varies, and mean ± standard error over seeds."""

    def spread(values) -> str:
        return with_error(*mean_se(np.array(values, float)))

    moving = _moving(sweep)
    header = [*moving, "accuracy", "ASR", "score"]
    body = [
        [*(row[name] for name in moving), *(spread(row[name]) for name in QUANTITIES)]
        for row in rows
    ]
    return header, body


def _report(sweep: Sweep, rows, header, body, seconds: float, command: str) -> str:
    plan, settings = sweep.plan, [name for name in _moving(sweep) if name != "attack"]
    means: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        place = tuple(row[name] for name in settings)
        means.setdefault(place, []).append(float(np.mean(row["score"])))
    best = max(means, key=lambda place: float(np.mean(means[place])))
    named = ", ".join(f"{n} = `{v}`" for n, v in zip(settings, best, strict=True))
    top = f"{np.mean(means[best]):.3f}"
    attacks = f"mean over {len(plan.attacks)} attack(s)"
    if settings:
        first = (
            f"The highest score, {attacks}, is {top}, with {named}; it was chosen on these runs."
        )
    else:
        first = f"The score, {attacks}, is {top}."
    still = {
        "attack": plan.attacks,
        "rule": plan.rules,
        "post-training defence": plan.posts,
        **sweep.varied,
    }
    single = [f"{name} `{values[0]}`" for name, values in still.items() if len(values) == 1]
    fixed = ", ".join([f"{plan.rounds} rounds", *single])
    return "\n".join(
        [
            f"# A sweep on {plan.game.dataset}\n",
            f"**{first}**\n",
            markdown_table(header, body),
            "Score: test accuracy after the last round, minus the attack's success rate (ASR) "
            f"where there is a backdoor; mean ± standard error over {plan.seeds} seed(s), each "
            "with its own splits, partition, model and batches, the same in all rows. Not varied: "
            f"{fixed}.\n",
            f"Command: `{command}`; {seconds:,.0f} s of play. Numbers by seed are in "
            "[sweep.json](sweep.json), settings of each run in `runs/`.\n",
        ]
    )
