"""How well a server without the trigger can tell the success of a backdoor, and undo it.

    python experiments/inversion.py                       # writes docs/results/inversion.csv
    python experiments/inversion.py --seeds 1 --rounds 50 --large-rules --out /tmp/try.csv

Trains MNIST models under backdoors and fixed rules. Reverse engineering sees the model and the 200
root images; the truth is the trigger's success on all test images. The post-training defences are
measured on the models of the plain mean. Tables:

- summary: estimate beside truth, over attacks, rules and seeds. Estimates are medians
  with their range; an anomaly index above 2, of any label, is Neural Cleanse's alarm.
- settings: `target found` says that the suspected label is the attacker's, `smallest mask` that the
  label of the smallest mask that reaches 0.99 is; the anomaly index is the target's.
- defences: all knobs of a defence at the value given, -1 the strongest.
"""

import dataclasses
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from scipy.stats import spearmanr
from tables import write_tables

from metasg_jax.config import FLConfig, GameConfig
from metasg_jax.data import load
from metasg_jax.evaluation.metrics import measure_deployed
from metasg_jax.evaluation.statistics import mean_se
from metasg_jax.evaluation.tables import rich_table
from metasg_jax.fl.simulate import simulate, start
from metasg_jax.fl.trigger_inversion import Inverted, invert_triggers
from metasg_jax.game.make import make_game, make_rule
from metasg_jax.post_defenses import POST_DEFENSES, Composed, undefended
from metasg_jax.programs.device import enable_compilation_cache
from metasg_jax.types import Deployed

# the first has a trigger, by which models without a backdoor are measured too
TYPES = ("bfl@0.05", "bfl@0.2", "bfl:boost=5@0.05", "none")
DEFENCES = (
    "none",
    "neuron_clip",
    "learned_clip",
    "prune",
    "guarded_prune",
    "fine_tune",
    "prune+fine_tune",
    "guarded_prune+fine_tune",
)
# a model counts as free of a backdoor below the first ASR, as taken over above the second
FREE, TAKEN = 0.2, 0.8

_measure = jax.jit(measure_deployed, static_argnums=0)
_calibrate = jax.jit(
    lambda defence, model, *args: defence.calibrate(model, *args), static_argnums=1
)
_defend = jax.jit(lambda defence, *args: defence(jax.random.key(0), *args)[0])


@dataclasses.dataclass(frozen=True)
class Inversion:
    """What is run."""

    dataset: str = "mnist"
    """A registered data set of 28x28 images."""
    rules: tuple[str, ...] = ("mean", "krum", "median", "clipped_trimmed_mean")
    """For the small model, 196-64-10 on images pooled to 14x14."""
    large_rules: tuple[str, ...] = ("mean", "krum")
    """For the large one, 784-128-10, at the first of the levels only."""
    levels: tuple[float, ...] = (0.5, 0.9)
    """Heterogeneity q."""
    rounds: int = 300
    """FL rounds."""
    seeds: int = 3
    """Each with its own partition, target, model and batches; the same for all cells."""
    first_seed: int = 0
    """The seeds that the estimate was chosen on are 100 to 102."""
    steps: int = 100
    """Steps of each search."""
    out: Path = Path("docs/results/inversion.csv")
    """Where the tables go, in long form."""


class Cell(NamedTuple):
    """One trained model: what it is, what is true of it, and what was found."""

    model: str
    level: float
    attack: str
    rule: str
    seed: int
    target: int
    accuracy: float
    asr: float
    found: Inverted
    seconds: float


class Trained(NamedTuple):
    """A game and its global model."""

    game: object
    deployed: Deployed


def make(args: Inversion, dataset, large: bool, level: float, seed: int):
    """The game of one seed; its target is the seed's last digit."""
    fl = FLConfig(batch_size=128, local_lr=0.05, horizon=args.rounds)
    config = GameConfig(
        dataset=args.dataset,
        pool=1 if large else 2,
        hidden=(128,) if large else (64,),
        level=level,
        num_root=200,
        types=TYPES,
        target=seed % dataset.num_classes,
        post_defense="none",
        seed=seed,
    )
    return make_game(config, fl, dataset), config


def train(game, config, rule_name: str, index: int, seed: int) -> Deployed:
    """The global model after all rounds."""
    rule = make_rule(rule_name, game.fl.num_sampled, config.assumed_share)
    colluders = game.prior.colluders(game.prior[index])
    key_model, key_rounds = jax.random.split(jax.random.key(seed))
    state = start(key_model, game.model, game.fl, rule, colluders)
    state = simulate(
        key_rounds, state, game.model, game.fl, game.data, rule, colluders, num_rounds=game.horizon
    )
    return undefended(game.model, game.model.unravel(state.w))


def truth(game, deployed: Deployed) -> tuple[float, float]:
    """Accuracy and ASR of the game's trigger on all test images."""
    measured = _measure(game.model, deployed, game.test_x, game.test_y, game.prior[0], False)
    return float(measured.accuracy), float(measured.asr)


def invert(args: Inversion, game, deployed: Deployed) -> tuple[Inverted, float]:
    """What is found, and how long it took."""
    begin = time.perf_counter()
    found = invert_triggers(
        jax.random.key(0), game.model, deployed, game.root_x, game.root_y, steps=args.steps
    )
    return jax.tree.map(np.asarray, found), time.perf_counter() - begin


def defend(name: str, knob: float | None, game, deployed: Deployed) -> Deployed:
    """Under a defence whose knobs are all ``knob``, or its fields' defaults."""
    parts = tuple(POST_DEFENSES[part]() for part in name.split("+"))
    defence = parts[0] if len(parts) == 1 else Composed(parts)
    state = _calibrate(defence, game.model, deployed, game.root_x, game.root_y)
    action = None if knob is None else jnp.full((max(1, len(defence.action_spec)),), knob)
    return _defend(defence, state, deployed, action)


def play(args: Inversion, dataset, console) -> tuple[list[Cell], dict]:
    """All models, and what the defences make of those of the mean."""
    plan = [(False, level) for level in args.levels]
    plan += [(True, args.levels[0])] if args.large_rules else []
    cells, defended = [], {}
    games = [(large, level, seed) for large, level in plan for seed in seeds(args)]
    for large, level, seed in track(games, "games", console=console):
        game, config = make(args, dataset, large, level, seed)
        for rule in args.large_rules if large else args.rules:
            for index, attack in enumerate(TYPES):
                deployed = train(game, config, rule, index, seed)
                found, seconds = invert(args, game, deployed)
                name = "784-128-10" if large else "196-64-10"
                measured = truth(game, deployed)
                cells.append(
                    Cell(name, level, attack, rule, seed, config.target, *measured, found, seconds)
                )
                if rule == "mean" and not large:
                    for defence in DEFENCES:
                        for knob in knobs(defence):
                            copy = defend(defence, knob, game, deployed)
                            row = defended.setdefault((level, attack, defence, knob), [])
                            row.append(truth(game, copy))
    return cells, defended


def seeds(args: Inversion) -> range:
    """Seeds that this run plays."""
    return range(args.first_seed, args.first_seed + args.seeds)


def knobs(defence: str) -> tuple[float, ...]:
    """At which a defence is measured."""
    return (1.0,) if defence == "none" else (0.0, -1.0)


def pm(values, digits=3) -> str:
    """Mean ± standard error."""
    mean, se = mean_se(np.asarray(values))
    return f"{mean:.{digits}f} ± {se:.{digits}f}"


def cell_rows(cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """A row a setting: truth, estimate, and what was suspected."""
    header = ["model", "q", "attack", "rule", "ASR", "estimated ASR", "target found",
              "smallest mask", "anomaly index"]  # fmt: skip
    rows = []
    for key in dict.fromkeys(c[:4] for c in cells):
        group = [c for c in cells if c[:4] == key]
        found = sum(int(c.found.suspect) == c.target for c in group)
        smallest = sum(int(c.found.size.argmin()) == c.target for c in group)
        rows.append(
            [key[0], f"{key[1]:g}", key[2], key[3], pm([c.asr for c in group]),
             pm([c.found.asr for c in group]), f"{found}/{len(group)}",
             f"{smallest}/{len(group)}", pm([c.found.anomaly[c.target] for c in group], 1)]
        )  # fmt: skip
    return header, rows


def summary_rows(cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """A row a model and heterogeneity: how the estimate goes with the truth."""
    header = ["model", "q", "models", "rank correlation", "mean error", f"estimate, ASR < {FREE}",
              f"estimate, ASR > {TAKEN}", f"target found, ASR > {TAKEN}",
              f"anomaly > 2, ASR < {FREE}", f"anomaly > 2, ASR > {TAKEN}",
              "seconds a call"]  # fmt: skip
    rows = []
    for key in dict.fromkeys(c[:2] for c in cells):
        group = [c for c in cells if c[:2] == key]
        true = np.array([c.asr for c in group])
        estimate = np.array([float(c.found.asr) for c in group])
        anomalous = np.array([c.found.anomaly.max() > 2 for c in group])
        right = np.array([int(c.found.suspect) == c.target for c in group])
        free, taken = true < FREE, true > TAKEN
        rows.append(
            [key[0], f"{key[1]:g}", str(len(group)), f"{spearmanr(estimate, true)[0]:.2f}",
             f"{np.abs(estimate - true).mean():.3f}", spread(estimate[free]),
             spread(estimate[taken]), f"{right[taken].sum()}/{taken.sum()}",
             f"{anomalous[free].sum()}/{free.sum()}", f"{anomalous[taken].sum()}/{taken.sum()}",
             f"{np.median([c.seconds for c in group]):.1f}"]
        )  # fmt: skip
    return header, rows


def spread(values) -> str:
    """Median and range."""
    if not len(values):
        return ""
    return f"{np.median(values):.2f} ({values.min():.2f} to {values.max():.2f})"


def defence_rows(defended: dict) -> tuple[list[str], list[list[str]]]:
    """A row a defence: accuracy without an attack, accuracy and ASR with each."""
    header = ["q", "defence", "knobs", "accuracy, none"]
    header += [f"{what}, {attack}" for attack in TYPES[:-1] for what in ("accuracy", "ASR")]
    rows = []
    for level, defence, knob in dict.fromkeys((k[0], *k[2:]) for k in defended):
        values = [pm([v[0] for v in defended[level, "none", defence, knob]])]
        for attack in TYPES[:-1]:
            pairs = defended[level, attack, defence, knob]
            values += [pm([v[i] for v in pairs]) for i in (0, 1)]
        rows.append([f"{level:g}", defence, f"{knob:+g}", *values])
    return header, rows


def main(args: Inversion) -> None:
    """Runs everything and writes the tables."""
    enable_compilation_cache()
    console = Console(soft_wrap=True)
    dataset = load(args.dataset)
    begin = time.perf_counter()
    cells, defended = play(args, dataset, console)
    seconds = time.perf_counter() - begin
    tables = {
        "summary": summary_rows(cells),
        "settings": cell_rows(cells),
        "defences": defence_rows(defended),
    }
    for title, (header, rows) in tables.items():
        console.print(rich_table(title, header, rows))
    write_tables(args.out, tables)
    console.print(f"{seconds:.0f} s; written to {args.out}")


if __name__ == "__main__":
    main(tyro.cli(Inversion, description=__doc__))
