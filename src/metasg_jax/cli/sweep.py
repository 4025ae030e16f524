"""``metasg sweep``."""

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from metasg_jax.cli.common import Source, load_images
from metasg_jax.cli.simulate import parse, plan_of
from metasg_jax.config import FLConfig, GameConfig
from metasg_jax.programs.run_directory import DEFAULT_ROOT


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Play runs over attacks, rules, seeds and any settings, and make one table of them.

    Each run is one of `metasg simulate`. Repeat --vary for each field; all combinations are played:

        metasg sweep --attacks none ipm:scale=5@0.2 --defenses mean median --seeds 3
            --vary fl.local_lr 0.1 0.3 --vary fl.compression none sign

    These are 2 x 2 x 2 x 2 settings, of three runs each. Everything is checked before the first
    is played. A run is kept as it ends, in a file of its own: the same command goes on where it
    stopped, and a larger sweep into the same --out plays only what is new.
    """

    game: GameConfig
    fl: FLConfig
    vary: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """A field of game or fl, and its values: --vary game.level 0.1 0.5 0.9. A field that holds
    several numbers takes them with commas: --vary game.hidden 64 64,32. Static fields (counts,
    names) compile anew at each value, floats do not."""
    attacks: tuple[str, ...] = ("none",)
    """Attacker types, as in `metasg simulate --attack`."""
    defenses: tuple[str, ...] = ("mean",)
    """Rules, as in `metasg simulate --defense`."""
    posts: tuple[str, ...] = ("none",)
    """Post-training defences; they share the rounds of a run."""
    rounds: int = 200
    """FL rounds of a run."""
    seeds: int = 1
    """Runs of each setting, each with its own splits, partition, model and batches."""
    at_once: int = 1
    """Runs that are played side by side where they differ in seeds and floats alone: more fill a
    GPU, and need as many times the memory; two cores are as busy with one. The same outcomes but
    for rounding."""
    dataset: str = "digits"
    """digits (embedded), mnist, fashion_mnist or cifar10."""
    out: Path | None = None
    """Directory of sweep.md, sweep.json and a file a run (default: runs/sweep-<dataset>)."""
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()


def run(argv: list[str], console: Console) -> int:
    """The command; returns the exit status."""
    args, config = parse(Sweep, "sweep", argv)
    plan = plan_of(args, config, args.attacks, args.defenses, args.posts)

    from metasg_jax.programs import sweep
    from metasg_jax.programs.device import enable_compilation_cache

    wanted = sweep.Sweep(plan, sweep.parse_varied(args.vary), args.at_once)
    wanted.points()  # raises, before images are loaded
    dataset = load_images(args.dataset, args.source, console)
    enable_compilation_cache()
    out = args.out or DEFAULT_ROOT / f"sweep-{args.dataset}"
    sweep.sweep_program(wanted, dataset, out, console, shlex.join(["metasg", "sweep", *argv]))
    return 0
