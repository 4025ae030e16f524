"""``metasg evaluate``."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from metasg_jax.cli.common import Judging, Source, load_images
from metasg_jax.errors import ConfigError
from metasg_jax.runs import DEFAULT_ROOT, newest


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Judge a pre-trained defender on fresh worlds: tables by type, accuracy over rounds."""

    run: Path | None = None
    """Directory of the run (default: the newest of the data set)."""
    dataset: str = "digits"
    """Whose newest run, where --run is not given."""
    level: float | None = None
    """Another heterogeneity than the run's."""
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()
    judging: Annotated[Judging, tyro.conf.arg(name="")] = Judging(eval_seeds=6)


def run(argv: list[str], console: Console) -> int:
    """The command; returns the exit status."""
    args = tyro.cli(Evaluate, args=argv, prog="metasg evaluate")
    if args.judging.eval_seeds < 1:
        raise ConfigError(f"eval_seeds = {args.judging.eval_seeds}: at least 1")
    directory = args.run or newest(DEFAULT_ROOT, args.dataset)

    from metasg_jax import program

    config, checkpoints = program.load_run(directory)
    dataset = load_images(config.game.dataset, args.source, console)
    program.enable_compilation_cache()
    state = program.load_state(config, checkpoints, dataset)
    if args.level is not None:
        game = dataclasses.replace(config.game, level=args.level)
        config = dataclasses.replace(config, game=game)
    judging = args.judging
    program.evaluate_program(
        state, config, dataset, directory,
        judging.eval_seeds, judging.grid, judging.selection_seeds, console,
    )  # fmt: skip
    return 0
