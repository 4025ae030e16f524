"""``metasg pretrain``."""

import argparse
import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from metasg_jax.cli.common import QUICK, Judging, Source, load_images
from metasg_jax.config import RunConfig
from metasg_jax.config.checks import require
from metasg_jax.data import DATASETS
from metasg_jax.errors import ConfigError
from metasg_jax.presets import DEFAULT_PRESET, PRESETS
from metasg_jax.programs.run_directory import DEFAULT_ROOT, new_directory, newest

NOTHING_LEARNED = "preset smoke: every part runs once, NOTHING IS LEARNED; its numbers mean nothing"


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Pre-train a defender and judge it. Every flag below shows the preset's value as default.

    Another preset or data set changes those values: `metasg pretrain --dataset mnist --help`.
    """

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    dataset: str = "digits"
    """digits (embedded), mnist, fashion_mnist or cifar10."""
    preset: str | None = None
    """smoke, cpu or paper (default: cpu)."""
    out: Path | None = None
    """Directory of the run (default: a new one, runs/<dataset>-<preset>)."""
    resume: bool = False
    """Go on from the newest checkpoint of --out, or of the newest run of data set and preset."""
    dry_run: bool = False
    """Only print what the run would cost: memory by part, FL rounds, FLOPs, and the time it would
    take by a short probe. Writes no run."""
    mesh: str = ""
    """Devices that share the meta-steps, as types=4,rollouts=2: each of 8 plays a quarter of the
    attackers' types and half of the rollouts. clients=2 shares local training, at the price of
    all updates sent in every round: types first, then rollouts. A size divides the number of what
    it shares. The processes of a launcher join; see docs/devices.md. Default: one device."""
    join_within: float = 300.0
    """Seconds in which all processes of a run by many must have joined."""
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()
    judging: Annotated[Judging, tyro.conf.arg(name="")] = Judging()


def parse_pretrain(argv: list[str]) -> Pretrain:
    """What the arguments of ``metasg pretrain`` ask for, over the preset that they name.

    Raises:
        UnknownNameError: for a data set or a preset that is not registered.
        ConfigError: for a setting out of range.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--dataset", default="digits")
    early.add_argument("--preset", default=None)
    known, _ = early.parse_known_args(argv)
    DATASETS[known.dataset]
    preset = known.preset or DEFAULT_PRESET[known.dataset]
    config = PRESETS[preset].get_config(known.dataset)
    # a federation of convolutional networks takes minutes: fewer of them are judged
    judging = QUICK if preset == "smoke" or config.game.model != "mlp" else Judging()
    default = Pretrain(config, known.dataset, preset, judging=judging)
    args = tyro.cli(Pretrain, args=argv, default=default, prog="metasg pretrain")
    given = args.config.game.dataset
    if given != args.dataset:
        raise ConfigError(f"game.dataset = {given!r}: name the data set by --dataset")
    args.config.check()
    args.judging.check()
    return args


def _sizes(args: Pretrain) -> dict[str, int] | None:
    """The mesh that was asked for, found to suit the run; None for one device."""
    if not args.mesh:
        return None
    from metasg_jax.programs.mesh import check_mesh, parse_mesh

    within = args.join_within
    require(0 < within <= 86_400, "join_within", within, "above 0, at most 86,400 (a day)")
    sizes = parse_mesh(args.mesh)
    check_mesh(sizes, args.config)
    return sizes


def run(argv: list[str], console: Console) -> int:
    """The command; returns the exit status."""
    args = parse_pretrain(argv)
    config, preset = args.config, args.preset
    sizes = _sizes(args)
    if args.dry_run:
        dataset = load_images(config.game.dataset, args.source, console)
        from metasg_jax.programs.device import enable_compilation_cache
        from metasg_jax.programs.dry_run import dry_run_program

        enable_compilation_cache()
        judging = args.judging
        dry_run_program(config, dataset, console, judging.eval_seeds, judging.selection_seeds)
        return 0
    name = f"{args.dataset}-{preset}"
    mesh, several = None, False
    if sizes is not None:
        import jax

        from metasg_jax.programs.mesh import make_mesh
        from metasg_jax.programs.processes import join

        join(args.join_within)
        mesh, several = make_mesh(sizes), jax.process_count() > 1
        if jax.process_index():
            console = Console(quiet=True)
        if several and args.out is None:
            raise ConfigError("out: with many processes, a directory that all of them see")
    if args.out is not None:
        directory = args.out
        if not args.resume and directory.is_dir() and any(directory.iterdir()):
            raise ConfigError(f"out = {directory}: is not empty; add --resume, or name another")
    elif args.resume:
        directory = newest(DEFAULT_ROOT, name)
    else:
        directory = new_directory(DEFAULT_ROOT, name)
    if several:  # to whom the directory may no longer be empty
        from metasg_jax.programs.processes import wait_for_all

        wait_for_all()
    dataset = load_images(config.game.dataset, args.source, console)

    from metasg_jax.programs import budget
    from metasg_jax.programs.device import enable_compilation_cache
    from metasg_jax.programs.evaluate import evaluate_program
    from metasg_jax.programs.pretrain import pretrain_program

    enable_compilation_cache()
    parts = []
    if "teach" in config.stages:
        worlds = config.teach.worlds + config.teach.own_play
        parts.append(f"a teacher on {worlds} worlds drawn at random")
    if "meta" in config.stages:
        total = config.steps * budget.rounds_per_step(config)
        parts.append(
            f"{config.steps} meta-steps of {config.meta.algorithm}, at most {total:,} FL rounds"
        )
    console.print(
        f"pre-training on {args.dataset}, preset {preset}: {', then '.join(parts)}, "
        f"into {directory}{'' if mesh is None else f', on {mesh.size} devices ({args.mesh})'}"
    )
    note = NOTHING_LEARNED if preset == "smoke" else ""
    if note:
        console.print(note)
    state = pretrain_program(config, dataset, directory, args.resume, console, mesh=mesh)
    judging = args.judging
    if several:  # one device judges: the others need not wait for it
        console.print(f"judge it by `metasg evaluate --run {directory}`")
        judging = dataclasses.replace(judging, eval_seeds=0)
    if judging.eval_seeds and config.trusts_clients:
        from metasg_jax.programs.judge import beside, judge_program

        judge_program(
            (str(directory), *beside(config)), config, dataset, directory,
            judging.eval_seeds, judging.selection_seeds, console, "learned",
        )  # fmt: skip
    elif judging.eval_seeds:
        evaluate_program(
            state, config, dataset, directory,
            judging.eval_seeds, judging.grid, judging.selection_seeds, console, note,
        )  # fmt: skip
    if note:
        console.print(note)
    console.print(f"checkpoint, metrics and plots are in {directory}")
    return 0
