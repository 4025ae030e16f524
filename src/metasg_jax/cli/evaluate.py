"""``metasg evaluate``."""

import argparse
import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from metasg_jax.cli.common import Judging, Source, load_images, preset_of
from metasg_jax.config import FLConfig, GameConfig, RunConfig
from metasg_jax.errors import ConfigError
from metasg_jax.programs.run_directory import DEFAULT_ROOT, newest


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Judge defences on fresh worlds: a run, shipped defenders, rules, and what they are held to.

    Named contestants play in the world that --dataset, --game and --fl describe: `metasg evaluate
    v3 told root_only 'median / fine_tune' --dataset mnist --game.level 0.9`. Without any, a run is
    judged beside its controls in its own world.
    """

    contestants: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """v3, a directory, told (the perfect filter), root_only, best_fixed, constant:clip=0,trim=-0.5
    or a rule, each with options as in 'median / warm / lr=2 / fine_tune'."""
    run: Path | None = None
    """Directory of the run (default: the newest of the data set), or None with contestants."""
    dataset: str = "digits"
    """Whose newest run, where --run is not given; the data set of the worlds with contestants."""
    level: float | None = None
    """Another heterogeneity than the run's."""
    responder: str = "none"
    """How attackers use what they know of a contestant: none, looking (they look through its
    decision each round and dilute what they send) or gradient, with options as in 'looking /
    sleepers / no_root'. For attacks with knobs: --game.types none blended_bfl@0.2 brl@0.2."""
    out: Path | None = None
    """Where results.md and results.json go (default: the run, or results)."""
    game: GameConfig = GameConfig()
    fl: FLConfig = FLConfig()
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()
    judging: Annotated[Judging, tyro.conf.arg(name="")] = Judging(eval_seeds=6)


def run(argv: list[str], console: Console) -> int:
    """The command; returns the exit status."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--run", type=Path, default=None)
    known, _ = early.parse_known_args(argv)
    preset = preset_of(argv)
    from metasg_jax.programs import judge
    from metasg_jax.programs.device import enable_compilation_cache
    from metasg_jax.programs.evaluate import evaluate_program
    from metasg_jax.programs.load import load_run, load_state

    if known.run is not None:
        preset = load_run(known.run)[0]
    default = Evaluate(game=preset.game, fl=preset.fl)
    args = tyro.cli(Evaluate, args=argv, default=default, prog="metasg evaluate")
    if args.judging.eval_seeds < 1:
        raise ConfigError(f"eval_seeds = {args.judging.eval_seeds}: at least 1")
    judging = args.judging
    judging.check()
    if args.contestants:
        game = args.game
        if args.level is not None:
            game = dataclasses.replace(game, level=args.level)
        config = RunConfig(game, args.fl)
        config.check()
        dataset = load_images(config.game.dataset, args.source, console)
        enable_compilation_cache()
        judge.judge_program(
            args.contestants, config, dataset, args.out or Path("results"),
            judging.eval_seeds, judging.selection_seeds, console, responder=args.responder,
        )  # fmt: skip
        return 0
    directory = args.run or newest(DEFAULT_ROOT, args.dataset)
    config, checkpoints = load_run(directory)
    dataset = load_images(config.game.dataset, args.source, console)
    enable_compilation_cache()
    if args.level is not None:
        game = dataclasses.replace(config.game, level=args.level)
        config = dataclasses.replace(config, game=game)
    if config.trusts_clients:
        judge.judge_program(
            (str(directory), *judge.beside(config)), config, dataset, args.out or directory,
            judging.eval_seeds, judging.selection_seeds, console, "learned", args.responder,
        )  # fmt: skip
        return 0
    if args.responder != "none":
        raise ConfigError(
            f"responder = {args.responder!r}: for those who decide about each client, and rules"
        )
    state = load_state(config, checkpoints, dataset)
    evaluate_program(
        state, config, dataset, args.out or directory,
        judging.eval_seeds, judging.grid, judging.selection_seeds, console,
    )  # fmt: skip
    return 0
