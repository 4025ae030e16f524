"""``metasg sweep`` as a program: runs over attacks, rules, seeds and settings, a file a run.

A run's file is named by all that it depends on. So the same command goes on where one was stopped,
and a larger sweep, or another one in the same directory, plays only what no sweep there has played.

Runs that differ in seeds and in traced numbers share a compiled program, and ``at_once`` of them
are played side by side. Their worlds are made when they are played, and forgotten then.
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
from metasg_jax.evaluation.metrics import Metrics
from metasg_jax.evaluation.tables import rich_table
from metasg_jax.game.bsmg import FLGame
from metasg_jax.game.shapes import of_shared_shape
from metasg_jax.programs import sweep_report
from metasg_jax.programs.console import progress
from metasg_jax.programs.device import forget_many_programs
from metasg_jax.programs.lock import alone
from metasg_jax.programs.simulate import Plan
from metasg_jax.registry import unknown_name

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
        at_once: runs that are played side by side, where their worlds are of one shape.
    """

    plan: Plan
    varied: dict[str, tuple[str, ...]]
    at_once: int = 1

    def points(self) -> list[Point]:
        """Every combination of values; the last field varies fastest.

        Raises:
            UnknownNameError: for a field that is none.
            ConfigError: for a field that is not read here, a value that is none of its type or is
                there twice, and settings out of range.
        """
        if not 1 <= self.at_once <= 10_000:
            raise ConfigError(f"at_once = {self.at_once}: at least 1, at most 10,000")
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
    header, body = sweep_report.table(sweep, rows)
    seconds = seconds_of_play(sweep.plan, done)
    told = sweep_report.report(sweep, rows, header, body, seconds, command)
    files.write_text(out / "sweep.md", told)
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
        _play(sweep, points, paths, done, dataset, console)
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


def _play(sweep: Sweep, points, paths, done: dict[Run, dict], dataset, console) -> None:
    """Plays what is not ``done``, and adds it there and to the files."""
    groups = list(_groups(paths))
    todo = [group for group in groups if not all(run in done for run in group)]
    number, total = len(groups) - len(todo), len(groups)
    places: dict[tuple[int, int], list[tuple[Run, ...]]] = {}
    for group in todo:
        places.setdefault(group[0][:2], []).append(group)
    with progress(console, "{task.fields[note]}") as bar:
        task = bar.add_task("runs", total=total, completed=number, note="")
        for worlds in _worlds(places, points, dataset, sweep.at_once):
            forget_many_programs()
            cells: dict[tuple[str, str], list[tuple[Run, ...]]] = {}
            for group in itertools.chain.from_iterable(places[place] for place in worlds):
                cells.setdefault((group[0].rule, group[0].attack), []).append(group)
            for (rule, attack), same in cells.items():
                said = [_said(points, group[0]) for group in same]
                bar.update(task, note="; ".join(said))
                start = time.perf_counter()
                games = [worlds[group[0][:2]][rule] for group in same]
                metrics = _side_by_side(
                    [group[0].seed for group in same], games, sweep.plan, attack
                )
                seconds = (time.perf_counter() - start) / len(same)
                for group, text, each in zip(same, said, metrics, strict=True):
                    for p, run in enumerate(group):
                        if run not in done:
                            done[run] = _outcome(each, p, seconds)
                            tree = {"run": _about(points, run), "outcome": done[run]}
                            files.write_json(paths[run], tree)
                    number += 1
                    bar.update(task, advance=1)
                    if not console.is_terminal:
                        score = f"score {done[group[0]]['score']:.3f}, {seconds:.1f} s"
                        console.print(f"{number}/{total} {text}: {score}")


Worlds = dict[tuple[int, int], dict[str, FLGame]]
"""Games by point and seed, then by rule."""


def _worlds(places, points, dataset: Dataset, at_once: int) -> Iterator[Worlds]:
    """Worlds in order, as many together as may be, all of one program for each rule."""
    held: Worlds = {}
    for place in places:
        if len(held) == at_once:
            yield held
            held = {}
        plan = points[place[0]].plan
        world = of_shared_shape(plan.world(dataset, place[1]))
        games = {name: world.replace(rule=rule) for name, rule in plan.make_rules(world).items()}
        if _program(games) != _program(next(iter(held.values()), games)):
            yield held
            held = {}
        held[place] = games
    if held:
        yield held


def _program(games: dict[str, FLGame]):
    """What has to agree for two worlds to be played by the same programs."""
    leaves, structure = jax.tree.flatten(games)
    return structure, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]


def _side_by_side(seeds: list[int], games: list[FLGame], plan: Plan, attack: str) -> list[Metrics]:
    """The metrics of one run in each game."""
    i, posts = jnp.int32(plan.attacks.index(attack)), plan.make_posts()
    if len(games) == 1:
        key = jax.random.key(seeds[0])
        metrics = matrix.play_cell(key, games[0], i, posts, num_rounds=plan.rounds)
        return [jax.tree.map(np.asarray, metrics)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *games)
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    metrics = matrix.play_cells(keys, stacked, i, posts, num_rounds=plan.rounds)
    metrics = jax.tree.map(np.asarray, metrics)
    return [jax.tree.map(lambda leaf, b=b: leaf[b], metrics) for b in range(len(games))]


def _said(points, run: Run) -> str:
    values = points[run.point].values
    return ", ".join([f"{run.rule} against {run.attack}, seed {run.seed}", *values])


def _groups(runs) -> Iterator[tuple[Run, ...]]:
    """Runs that differ in the post-training defence only: they are one run of rounds."""
    for _, group in itertools.groupby(
        runs, lambda run: (run.point, run.seed, run.rule, run.attack)
    ):
        yield tuple(group)


def _outcome(metrics, p: int, seconds: float) -> dict:
    numbers = {name: float(getattr(metrics, name)[p]) for name in sweep_report.QUANTITIES}
    return {
        **{name: None if math.isnan(value) else value for name, value in numbers.items()},
        "diverged": bool(metrics.diverged[p]),
        "seconds": round(seconds, 3),
    }


def _rows(sweep: Sweep, done: dict[Run, dict]) -> list[dict]:
    """A row for each point, attack, rule and post-training defence, with the numbers by seed."""
    plan, rows = sweep.plan, []
    kept = (*sweep_report.QUANTITIES, "diverged")
    for p, point in enumerate(sweep.points()):
        for attack, rule, post in itertools.product(plan.attacks, plan.rules, plan.posts):
            runs = [done[Run(p, seed, rule, attack, post)] for seed in range(plan.seeds)]
            rows.append(
                {
                    **dict(zip(sweep.varied, point.values, strict=True)),
                    "attack": attack,
                    "defense": rule,
                    "post": post,
                    **{name: [run[name] for run in runs] for name in kept},
                }
            )
    return rows
