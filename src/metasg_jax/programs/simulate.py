"""``metasg simulate`` and ``metasg matrix`` as programs: progress, files, resumption."""

import csv
import dataclasses
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from metasg_jax import __version__, files
from metasg_jax.checkpoint import mark
from metasg_jax.config import FLConfig, GameConfig
from metasg_jax.data import Dataset
from metasg_jax.errors import CheckpointError, ConfigError
from metasg_jax.evaluation import matrix
from metasg_jax.evaluation.plots import heat_map, simulation_curves
from metasg_jax.evaluation.statistics import mean_se
from metasg_jax.evaluation.tables import markdown_table, rich_table, with_error
from metasg_jax.game.bsmg import FLGame
from metasg_jax.game.make import make_game, make_post_defense, make_rule
from metasg_jax.game.shapes import of_one_shape
from metasg_jax.game.types import parse_type
from metasg_jax.limits import MOST
from metasg_jax.programs.console import progress
from metasg_jax.programs.lock import alone
from metasg_jax.types import PostDefense

_GROWING = ("attacks", "rules", "posts", "seeds")
FIELDS = ("attack", "rule", "post", "seed", "accuracy", "asr", "score", "diverged", "seconds")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is played.

    Attributes:
        game: data, model and clients; its types, rule and post-training defence are not read.
        fl: local training; its horizon is not read.
        attacks: types, as ``GameConfig.types``.
        rules: as :func:`~metasg_jax.game.make.make_rule` reads them.
        posts: as :func:`~metasg_jax.game.make.make_post_defense` reads them.
        rounds: FL rounds of a run.
        seeds: runs of each cell; run s has splits, partition, model and batches of its own, the
            same in all cells.
    """

    game: GameConfig
    fl: FLConfig
    attacks: tuple[str, ...]
    rules: tuple[str, ...]
    posts: tuple[str, ...]
    rounds: int
    seeds: int

    def check(self) -> None:
        """Raises ConfigError where a setting is out of range, before anything is played."""
        self.game.check()
        self.fl.check()
        for name in ("attacks", "rules", "posts"):
            values = getattr(self, name)
            if not values:
                raise ConfigError(f"{name}: at least one")
            if len(set(values)) < len(values):
                raise ConfigError(f"{name}: {', '.join(values)}: each only once")
        for name in ("rounds", "seeds"):
            most = MOST if name == "rounds" else 10_000
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} = {getattr(self, name)}: at least 1, at most {most:,}")
        for text in self.attacks:
            parse_type(text, self.fl.num_clients)

    def worlds(self, dataset: Dataset) -> list[FLGame]:
        """A game a seed, all of one shape, with the attacks as types."""
        return of_one_shape([self.world(dataset, seed) for seed in range(self.seeds)])

    def world(self, dataset: Dataset, seed: int) -> FLGame:
        """The game of one seed, with the attacks as types."""
        config = dataclasses.replace(
            self.game,
            types=self.attacks,
            rule="mean",
            post_defense="none",
            seed=self.game.seed + seed,
        )
        return make_game(config, self.fl, dataset)

    def make_rules(self, game: FLGame) -> dict:
        """The rules by name: all of them, so that a bad one is refused at the start."""
        share = self.game.assumed_share
        return {r: make_rule(r, self.fl.num_sampled, share, game.model) for r in self.rules}

    def make_posts(self) -> tuple[PostDefense, ...]:
        """The post-training defences in order."""
        return tuple(make_post_defense(post) for post in self.posts)

    def to_json(self) -> dict:
        """For a file; ``attacks``, ``rules``, ``posts`` and ``seeds`` may grow between runs."""
        tree = json.loads(json.dumps(dataclasses.asdict(self)))
        for name in ("types", "rule", "post_defense"):
            del tree["game"][name]
        del tree["fl"]["horizon"]
        return tree | {"version": __version__}

    @property
    def mark(self) -> str:
        """Twelve hex digits of the settings that runs which share a file must have in common."""
        tree = self.to_json()
        return mark({name: value for name, value in tree.items() if name not in _GROWING})


def simulate_program(plan: Plan, dataset: Dataset, out: Path | None, console: Console) -> list:
    """Plays one attack against one rule and prints how accuracy and attack success go.

    Returns:
        Rows of ``simulation.csv``: one for each seed, post-training defence and measured round.
    """
    plan.check()
    worlds = plan.worlds(dataset)
    [rule], posts = plan.make_rules(worlds[0]).values(), plan.make_posts()
    if out is not None:
        files.require_writable(out)
    steps = _stretches(plan.rounds)
    begin, play, judge = (
        jax.jit(matrix.begin),
        jax.jit(matrix.play_rounds, static_argnames="num_rounds"),
        jax.jit(matrix.judge),
    )
    rows, attack, rejected = [], plan.attacks[0], 0.0
    started = time.perf_counter()
    with progress(console, "{task.fields[note]}") as bar:
        task = bar.add_task("rounds", total=plan.rounds * plan.seeds, note="compiling")
        for seed, world in enumerate(worlds):
            game, i = world.replace(rule=rule), jnp.int32(0)
            key_model, key_rounds, key_post = jax.random.split(jax.random.key(seed), 3)
            state = begin(key_model, game, i)
            for stretch in steps:
                state = play(key_rounds, game, state, i, num_rounds=stretch)
                metrics = jax.tree.map(np.asarray, judge(key_post, game, state.w, i, posts))
                done = int(state.round)
                for p, post in enumerate(plan.posts):
                    rows.append(_row(attack, plan.rules[0], post, seed, metrics, p, round=done))
                first = metrics.accuracy[0], metrics.asr[0]
                note = f"accuracy {first[0]:.3f}"
                note += "" if np.isnan(first[1]) else f"  ASR {first[1]:.3f}"
                bar.update(task, advance=stretch, note=note)
                if not console.is_terminal:
                    console.print(f"seed {seed}  round {done}/{plan.rounds}  {note}")
            rejected += float(state.rejected)
    seconds = time.perf_counter() - started
    last = [row for row in rows if row["round"] == plan.rounds]
    body = []
    for post in plan.posts:
        values = [row for row in last if row["post"] == post]
        body.append([post, *(_spread(values, name) for name in ("accuracy", "asr", "score"))])
    title = f"{attack} against {plan.rules[0]}, {plan.rounds} rounds, {plan.seeds} seed(s)"
    about = f"{plan.game.dataset}: {title} (ASR: attack success rate)"
    console.print(rich_table(about, ["post-training", "accuracy", "ASR", "score"], body))
    console.print(
        f"{rejected:.0f} of {plan.rounds * plan.seeds * plan.fl.num_sampled} rows rejected as not "
        f"finite; {seconds:.1f} s with compiling"
    )
    if out is not None:
        _write_rows(out / "simulation.csv", rows, ("round", *FIELDS[:-1]))
        simulation_curves(rows, title, out / "simulation.png")
        console.print(f"simulation.csv and simulation.png are in {out}")
    return rows


def matrix_program(
    plan: Plan, dataset: Dataset, out: Path, console: Console, command: str = "metasg matrix"
) -> matrix.Matrix:
    """Plays every attack against every rule, a program a rule, and writes the tables.

    Each run is written to ``matrix.csv`` as it ends; the same command goes on where an earlier one
    stopped, and plays only what is missing where attacks, rules, defences or seeds were added.

    Args:
        plan: what is played.
        dataset: the images.
        out: directory of the files.
        console: where progress and the table are shown.
        command: what the report says it was made with.

    Raises:
        CheckpointError: where ``out`` holds runs of other settings, or is being written to.
    """
    plan.check()
    worlds = plan.worlds(dataset)
    rules, posts = plan.make_rules(worlds[0]), plan.make_posts()
    files.require_writable(out)
    with alone(out):
        return _play_matrix(plan, worlds, rules, posts, out, console, command)


def _play_matrix(plan: Plan, worlds, rules, posts, out: Path, console: Console, command: str):
    """:func:`matrix_program` once everything has been checked, with ``out`` to itself."""
    rows = _resume(plan, out)
    asked = [(a, r, s) for r in plan.rules for a in plan.attacks for s in range(plan.seeds)]
    todo = [
        (a, r, s) for a, r, s in asked if any((a, r, post, s) not in rows for post in plan.posts)
    ]
    files.write_json(out / "matrix.json", plan.to_json())
    path, there, owner = out / "matrix.csv", len(asked) - len(todo), plan.mark
    files.write_lines(path, FIELDS, rows.values(), owner)
    if todo != asked:
        console.print(f"{there} of {len(asked)} runs are in {out} already")
    with progress(console, "{task.fields[note]}") as bar:
        task = bar.add_task("runs", total=len(asked), completed=there, note="")
        for number, (attack, rule, seed) in enumerate(todo, 1):
            bar.update(task, note=f"{rule} against {attack}")
            start = time.perf_counter()
            metrics = matrix.play_cell(
                jax.random.key(seed),
                worlds[seed].replace(rule=rules[rule]),
                jnp.int32(plan.attacks.index(attack)),
                posts,
                num_rounds=plan.rounds,
            )
            metrics = jax.tree.map(np.asarray, metrics)
            seconds = f"{time.perf_counter() - start:.3f}"
            new = [
                _row(attack, rule, post, seed, metrics, p, seconds=seconds)
                for p, post in enumerate(plan.posts)
                if (attack, rule, post, seed) not in rows
            ]
            files.add_lines(path, FIELDS, new, owner)
            rows |= {_place(row): row for row in new}
            bar.update(task, advance=1)
            last = number == len(todo) or todo[number][1] != rule
            if last and not console.is_terminal:
                console.print(f"{rule}: done, {there + number}/{len(asked)} runs")
    result = matrix.assemble(plan.attacks, plan.rules, plan.posts, plan.seeds, rows.values())
    wall = sum(float(rows[a, r, plan.posts[0], s]["seconds"]) for a, r, s in asked)
    files.write_text(out / "matrix.md", _report(plan, result, wall, command))
    heat_map(result, out / "matrix.png")
    header, body = matrix.defence_rows(result)
    shown = f"defences by their worst case, {min(20, len(body))} of {len(body)}"
    console.print(rich_table(shown, header, body[:20]))
    console.print(f"matrix.md, matrix.csv and matrix.png are in {out}")
    return result


def _report(plan: Plan, result: matrix.Matrix, seconds: float, command: str) -> str:
    game, fl = plan.game, plan.fl
    _, rows = matrix.defence_rows(result)
    rows = [[r, post, f"{w} ± {se}" if se else w, *rest[:3]] for r, post, w, se, *rest in rows]
    rule, post, score, by, *_ = rows[0]
    worst, _ = matrix.worst_case(result)
    parts = [
        f"# Attacks against defences on {game.dataset}\n",
        f"**Of {worst.size} defences `{rule}` with the post-training defence `{post}` has the best "
        f"worst case, {score}, under `{by}`. {(worst > 0.5).sum()} keep more than 0.5 in their "
        f"worst case, {(worst <= 0).sum()} keep nothing: they are at 0 or below.**\n",
        "Score: test accuracy after the last round, minus the attack's success rate where there is "
        "a backdoor. Each rule with the post-training defence that gives it the best worst case, "
        "chosen on these very runs:\n",
        markdown_table(
            ["rule", "post-training", "worst score", "by", "mean score", "clean accuracy"],
            [row for i, row in enumerate(rows) if row[0] not in {each[0] for each in rows[:i]}],
        ),
        "![heat map](matrix.png)\n",
        f"Command: `{command}`, version {__version__}, {seconds:,.0f} s, compiling included. Every "
        "run of every attack, rule, post-training defence and seed is in "
        "[matrix.csv](matrix.csv).\n",
        f"{fl.num_clients} clients, {fl.num_sampled} sampled, {fl.local_steps} local step(s) of "
        f"batch {fl.batch_size}, learning rate {fl.local_lr:g}, partition {game.partition} "
        f"{game.level:g}, {plan.rounds} rounds, {game.model} with hidden widths "
        f"{', '.join(map(str, game.hidden))}, images pooled by {game.pool}, {game.num_root} root "
        f"images. {len(plan.attacks)} attacks, {len(plan.rules)} rules, {len(plan.posts)} "
        f"post-training defences; mean ± standard error over {plan.seeds} seeds, each with its own "
        "splits, partition, model and batches, the same in all cells. Trigger: "
        f"{game.trigger} of size {game.trigger_size} at {game.trigger_position}, target "
        f"{game.target}. A share after @ is of all clients. The rules assume a share of "
        f"{game.assumed_share:g} malicious ones; fields that a name does not set have their "
        f"defaults, those of post-training defences too (`metasg list`). A worst "
        "case is that of this list of attacks: one made for the defence may do worse (`metasg "
        "exploit`).\n",
    ]
    return "\n".join(parts)


def _resume(plan: Plan, out: Path) -> dict[tuple, dict]:
    """The rows that ``out`` holds already, by attack, rule, post-training defence and seed."""
    path = out / "matrix.csv"
    if not path.is_file():
        return {}
    try:
        before, now = files.read_json(out / "matrix.json"), plan.to_json()
    except CheckpointError as error:
        raise CheckpointError(
            f"{out / 'matrix.json'}, the settings of the runs beside it, can't be read: {error}"
        ) from None
    differing = _differing(before, now)
    if differing:
        raise CheckpointError(
            f"{out} holds runs of other settings ({', '.join(differing)}): name another --out"
        )
    return {_place(row): row for row in files.read_lines(path, FIELDS, _read_row, plan.mark)}


def _differing(before: dict, now: dict) -> list[str]:
    """Names of the settings that differ, but for the lists that may grow."""
    names = []
    for key, value in now.items():
        if key in _GROWING:
            continue
        if isinstance(value, dict):
            old = before.get(key)
            old = old if isinstance(old, dict) else {}
            names += [f"{key}.{name}" for name in value if old.get(name) != value[name]]
        elif before.get(key) != value:
            names.append(key)
    return names


def _read_row(row: dict[str, str]) -> dict[str, str]:
    for name in ("seed", "accuracy", "asr", "score", "diverged", "seconds"):
        float(row[name])  # raises ValueError
    return row


def _place(row: dict) -> tuple[str, str, str, int]:
    return row["attack"], row["rule"], row["post"], int(row["seed"])


def _row(attack: str, rule: str, post: str, seed: int, metrics, p: int, **more) -> dict:
    numbers = {name: f"{getattr(metrics, name)[p]:.6f}" for name in ("accuracy", "asr", "score")}
    numbers["diverged"] = str(int(metrics.diverged[p]))
    return dict(attack=attack, rule=rule, post=post, seed=str(seed), **numbers, **more)


def _write_rows(path: Path, rows: list[dict], fields: tuple[str, ...]) -> None:
    with files.whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)


def _spread(rows: list[dict], name: str) -> str:
    return with_error(*mean_se(np.array([float(row[name]) for row in rows])))


def _stretches(rounds: int, points: int = 20) -> list[int]:
    """Lengths of almost equal stretches, at most two different ones, so that few compile."""
    length = max(1, rounds // points)
    whole, rest = divmod(rounds, length)
    return [length] * whole + ([rest] if rest else [])
