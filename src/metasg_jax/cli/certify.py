"""``metasg certify``."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from metasg_jax.cli.common import Source, load_images


@dataclasses.dataclass(frozen=True)
class Certify:
    """Measure how far checkpoints are from a meta equilibrium: residuals with their errors, strict
    competitiveness, PL and smoothness constants, and the step sizes that Theorem D.7 would choose.
    """

    checkpoint: tyro.conf.Positional[Path]
    """A run's directory (all of its checkpoints), or one checkpoint, <run>/checkpoints/<step>."""
    batches: int = 32
    """Independent batches for each type, the same at every checkpoint; even. Errors of small
    residuals fall as 1 / batches."""
    points: int = 4
    """Points of each adaptive attacker's ascent, for the constants; 0 leaves these out."""
    seed: int = 0
    """Seed of the random numbers, the same for all checkpoints."""
    out: Path | None = None
    """Directory of certify.md, certify.csv and certify.png (default: the run's). Checkpoints whose
    rows are there already are not computed again."""
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()


def run(argv: list[str], console: Console) -> int:
    """The command; returns the exit status."""
    args = tyro.cli(Certify, args=argv, prog="metasg certify")

    from metasg_jax import checkpoint
    from metasg_jax.programs import certify
    from metasg_jax.programs.device import enable_compilation_cache

    run, steps = certify.find_checkpoints(args.checkpoint)
    config = checkpoint.load_config(run / "checkpoints", steps[-1])
    budget = certify.Budget(args.batches, args.points, args.seed)
    budget.check(config.meta)
    dataset = load_images(config.game.dataset, args.source, console)
    enable_compilation_cache()
    certify.certify_program(run, steps, config, dataset, budget, args.out or run, console)
    return 0
