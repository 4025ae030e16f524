"""``metasg simulate`` and ``metasg matrix``: fixed attacks against fixed defences."""

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from metasg_jax.cli.common import Source, load_images, preset_of
from metasg_jax.config import FLConfig, GameConfig, RunConfig
from metasg_jax.errors import ConfigError
from metasg_jax.evaluation.attack_suite import ATTACKS, POSTS, RULES
from metasg_jax.programs.run_directory import DEFAULT_ROOT


@dataclasses.dataclass(frozen=True)
class Simulate:
    """Play one attack against one fixed defence: accuracy and attack success over rounds.

    `metasg list` shows the names; `metasg simulate --dataset mnist --help` the data set's settings.
    """

    game: GameConfig
    fl: FLConfig
    attack: str = "none"
    """An attacker type: ipm:scale=2@0.2 is 20 % of the clients with an attack and its knob;
    ipm@0.1+bfl:boost=3@0.05 a mixed one."""
    defense: str = "mean"
    """A rule: krum, norm_bound:max_norm=0.5, nnm+trimmed_mean."""
    post: tuple[str, ...] = ("none",)
    """Post-training defences, each judged on the same rounds: neuron_clip, prune+fine_tune."""
    rounds: int = 200
    """FL rounds."""
    seeds: int = 1
    """Runs, each with its own splits, partition, model and batches."""
    dataset: str = "digits"
    """digits (embedded), mnist, fashion_mnist or cifar10."""
    out: Path | None = None
    """A directory for simulation.csv and simulation.png (default: nothing is written)."""
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Play every attack against every rule and post-training defence: table, CSV and heat map.

    A `metasg sweep` of fixed settings with tables of its own: each run is kept as it ends, the same
    command goes on where it stopped, and a larger one into the same --out plays only what is new.
    """

    game: GameConfig
    fl: FLConfig
    attacks: tuple[str, ...] = ATTACKS
    """Attacker types, as in `metasg simulate --attack`."""
    defenses: tuple[str, ...] = RULES
    """Rules, as in `metasg simulate --defense`."""
    posts: tuple[str, ...] = POSTS
    """Post-training defences; they share the rounds of a run."""
    rounds: int = 200
    """FL rounds of a run."""
    seeds: int = 3
    """Runs of each cell, each with its own splits, partition, model and batches."""
    dataset: str = "digits"
    """digits (embedded), mnist, fashion_mnist or cifar10."""
    out: Path | None = None
    """Directory of matrix.csv, .md and .png, and a file a run (default: runs/matrix-<dataset>)."""
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()


def run_simulate(argv: list[str], console: Console) -> int:
    """The command ``simulate``; returns the exit status."""
    args, config = parse(Simulate, "simulate", argv)
    plan = plan_of(args, config, (args.attack,), (args.defense,), args.post)

    from metasg_jax.programs import simulate
    from metasg_jax.programs.device import enable_compilation_cache

    dataset = load_images(args.dataset, args.source, console)
    enable_compilation_cache()
    simulate.simulate_program(plan, dataset, args.out, console)
    return 0


def run_matrix(argv: list[str], console: Console) -> int:
    """The command ``matrix``; returns the exit status."""
    args, config = parse(Matrix, "matrix", argv)
    plan = plan_of(args, config, args.attacks, args.defenses, args.posts)

    from metasg_jax.programs import matrix
    from metasg_jax.programs.device import enable_compilation_cache

    dataset = load_images(args.dataset, args.source, console)
    enable_compilation_cache()
    out = args.out or DEFAULT_ROOT / f"matrix-{args.dataset}"
    command = shlex.join(["metasg", "matrix", *argv])
    matrix.matrix_program(plan, dataset, out, console, command)
    return 0


def parse(command, name: str, argv: list[str]):
    """(arguments, preset) of a command that plays fixed defences; the preset is the data set's."""
    config = preset_of(argv)
    default = command(config.game, config.fl, dataset=config.game.dataset)
    return tyro.cli(command, args=argv, default=default, prog=f"metasg {name}"), config


def plan_of(args, config: RunConfig, attacks, rules, posts):
    """The plan of such a command; refuses settings that have a flag of their own there."""
    elsewhere = {
        "game.types": (args.game.types, config.game.types, "--attack"),
        "game.rule": (args.game.rule, config.game.rule, "--defense"),
        "game.post_defense": (args.game.post_defense, config.game.post_defense, "--post"),
        "game.dataset": (args.game.dataset, args.dataset, "--dataset"),
        "fl.horizon": (args.fl.horizon, config.fl.horizon, "--rounds"),
    }
    for field, (value, default, flag) in elsewhere.items():
        if value != default:
            raise ConfigError(f"{field} = {value!r}: not read here, use {flag}")

    from metasg_jax.programs import simulate

    plan = simulate.Plan(args.game, args.fl, attacks, rules, posts, args.rounds, args.seeds)
    plan.check()
    return plan
