"""``metasg adapt``."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from metasg_jax.cli.common import Source, load_images
from metasg_jax.config import Adaptation
from metasg_jax.errors import ConfigError
from metasg_jax.programs.run_directory import DEFAULT_ROOT, new_directory, newest


@dataclasses.dataclass(frozen=True)
class Adapt:
    """Deploy a pre-trained defender in one run whose attacker is hidden, and adapt it online.

    The server sees updates and its root images, and plays ahead in a world that it made of these.
    `metasg adapt --run runs/mnist-cpu --attack bfl@0.2` shows belief, actions and decisions.
    """

    run: Path | None = None
    """Directory of the pre-training (default: the newest of the data set)."""
    asked: Annotated[Adaptation, tyro.conf.arg(name="")] = Adaptation()
    dataset: str = "digits"
    """Whose newest run, where --run is not given."""
    out: Path | None = None
    """Directory of adapt.csv, adapt.png and checkpoints (default: a new one, runs/adapt-..)."""
    resume: bool = False
    """Go on from the newest checkpoint of --out."""
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()


def run(argv: list[str], console: Console) -> int:
    """The command; returns the exit status."""
    args = tyro.cli(Adapt, args=argv, prog="metasg adapt")
    if args.resume and args.out is None:
        raise ConfigError("resume: name the run by --out")
    directory = args.run or newest(DEFAULT_ROOT, args.dataset)

    from metasg_jax.programs import adapt
    from metasg_jax.programs.device import enable_compilation_cache
    from metasg_jax.programs.load import load_run, load_state

    config, checkpoints = load_run(directory)
    if config.meta.algorithm == "best_response":
        raise ConfigError(f"run = {directory}: holds an attacker; name a run of metasg pretrain")
    args.asked.check(config.fl.horizon)
    out = args.out or new_directory(DEFAULT_ROOT, f"adapt-{config.game.dataset}")
    if not args.resume and out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"out = {out}: is not empty; add --resume, or name another")
    dataset = load_images(config.game.dataset, args.source, console)
    enable_compilation_cache()
    state = load_state(config, checkpoints, dataset)
    adapt.adapt_program(state, config, dataset, args.asked, out, args.resume, console)
    console.print(f"adapt.csv, adapt.png and checkpoints are in {out}")
    return 0
