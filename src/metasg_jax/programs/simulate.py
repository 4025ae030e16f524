"""``metasg simulate`` as a program, and what it shares with those that play many runs."""

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
from metasg_jax.config import FLConfig, GameConfig
from metasg_jax.data import Dataset
from metasg_jax.errors import ConfigError
from metasg_jax.evaluation import matrix
from metasg_jax.evaluation.plots import simulation_curves
from metasg_jax.evaluation.statistics import mean_se
from metasg_jax.evaluation.tables import rich_table, with_error
from metasg_jax.game.bsmg import FLGame
from metasg_jax.game.make import make_game, make_post_defense, make_rule
from metasg_jax.game.shapes import of_one_shape
from metasg_jax.game.types import parse_type
from metasg_jax.limits import MOST
from metasg_jax.programs.console import progress
from metasg_jax.types import PostDefense

FIELDS = ("attack", "rule", "post", "seed", "accuracy", "asr", "score", "diverged")


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
        """What the outcome of each run depends on, beside its attack, rule, defence and seed."""
        tree: dict = {"game": dataclasses.asdict(self.game), "fl": dataclasses.asdict(self.fl)}
        for name in ("types", "rule", "post_defense"):
            del tree["game"][name]
        del tree["fl"]["horizon"]
        return json.loads(json.dumps(tree | {"rounds": self.rounds, "version": __version__}))


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
        write_rows(out / "simulation.csv", rows, ("round", *FIELDS))
        simulation_curves(rows, title, out / "simulation.png")
        console.print(f"simulation.csv and simulation.png are in {out}")
    return rows


def _row(attack: str, rule: str, post: str, seed: int, metrics, p: int, **more) -> dict:
    numbers = {name: f"{getattr(metrics, name)[p]:.6f}" for name in ("accuracy", "asr", "score")}
    numbers["diverged"] = str(int(metrics.diverged[p]))
    return dict(attack=attack, rule=rule, post=post, seed=str(seed), **numbers, **more)


def write_rows(path: Path, rows: list[dict], fields: tuple[str, ...]) -> None:
    """A CSV of rows, under their fields."""
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
