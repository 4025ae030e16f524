"""``metasg attack``."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from metasg_jax.cli.common import Source, load_images, preset_of
from metasg_jax.config import FLConfig, GameConfig, MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.programs.run_directory import DEFAULT_ROOT, new_directory


@dataclasses.dataclass(frozen=True)
class Attack:
    """Train an attacker against one defence, and judge it beside the zoo's fixed attacks.

    `metasg attack --against krum` learns the best response to Krum; the defence stands still.
    """

    game: GameConfig
    fl: FLConfig
    meta: MetaConfig
    against: str = "krum"
    """A rule, with a post-training defence after a slash; or the directory of a pre-training run:
    its policy, in its own game."""
    attack: str = "rl@0.2"
    """An attacker that learns: rl (untargeted) or brl (backdoor), with its share."""
    tries: int = 48
    """Constant actions tried before it learns, the best quarter of them in four episodes; 0: none.
    """
    steps: int = 16
    """Batches of four episodes: with the tries, 14,800 FL rounds where these have a hundred."""
    seed: int = 0
    """Seed of the learner."""
    worlds: int = 3
    """Fresh worlds of the table at the end; 0 for none."""
    dataset: str = "digits"
    """digits (embedded), mnist, fashion_mnist or cifar10; a run has its own."""
    out: Path | None = None
    """Directory of the run (default: a new one, runs/attack-<dataset>)."""
    resume: bool = False
    """Go on from the newest checkpoint of --out."""
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()


def run(argv: list[str], console: Console) -> int:
    """The command; returns the exit status."""
    from metasg_jax.programs import train_attacker
    from metasg_jax.programs.device import enable_compilation_cache

    config = preset_of(argv)
    default = Attack(config.game, config.fl, train_attacker.LEARNER, dataset=config.game.dataset)
    args = tyro.cli(Attack, args=argv, default=default, prog="metasg attack")
    if args.worlds < 0 or args.worlds == 1:
        raise ConfigError(f"worlds = {args.worlds}: 0, or at least 2 to tell an error")
    if args.tries < 0:
        raise ConfigError(f"tries = {args.tries}: at least 0")
    if args.resume and args.out is None:
        raise ConfigError("resume: name the run by --out")
    opponent = train_attacker.opponent_of(
        args.against, args.attack, args.game, args.fl, args.meta,
        lambda name: load_images(name, args.source, console),
    )  # fmt: skip
    config = dataclasses.replace(opponent.config, steps=args.steps, seed=args.seed, chunk=2)
    config.check()
    directory = args.out or new_directory(DEFAULT_ROOT, f"attack-{config.game.dataset}")
    if not args.resume and directory.is_dir() and any(directory.iterdir()):
        raise ConfigError(f"out = {directory}: is not empty; add --resume, or name another")
    dataset = load_images(config.game.dataset, args.source, console)
    enable_compilation_cache()
    console.print(f"{args.attack} learns against {args.against}, into {directory}")
    opponent = dataclasses.replace(opponent, config=config)
    train_attacker.attack_program(
        opponent, dataset, directory, args.resume, args.worlds, console, args.tries
    )
    return 0
