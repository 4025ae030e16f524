"""Pre-trains the defenders by ``metasg pretrain``, a pinned process a core; loads them, and adapts
them to a type.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterable
from pathlib import Path

import jax
from rich.console import Console

from metasg_jax import checkpoint
from metasg_jax.cli import parse_pretrain
from metasg_jax.config import RunConfig
from metasg_jax.data import load
from metasg_jax.errors import CheckpointError
from metasg_jax.learning.adaptation import adapt
from metasg_jax.learning.state import attacker_player, defender_player
from metasg_jax.programs.load import load_state
from metasg_jax.programs.pretrain import training_games
from metasg_jax.programs.run_directory import write_config
from study.jobs import Job, run_jobs
from study.settings import CARD, LEARNERS


def folder_of(runs: Path, name: str, seed: int) -> Path:
    """Where a learner's run is kept."""
    return runs / f"{name}-{seed}"


def train(jobs: Iterable[tuple[str, int]], runs: Path, workers: int, console: Console) -> None:
    """Runs (learner, seed) jobs, resuming what was begun and leaving what is done.

    Raises:
        SystemExit: naming the log of a run that failed, and what other settings a run that is
            there was made with.
    """
    todo = []
    for name, seed in jobs:
        out = folder_of(runs, name, seed)
        if not is_finished(name, seed, runs):
            out.mkdir(parents=True, exist_ok=True)
            log = out.parent / f"{out.name}.log"
            todo.append(Job(f"trained {name}, seed {seed}", command(name, seed, out), log))
    run_jobs(todo, workers, console)


def command(name: str, seed: int, out: Path) -> list[str]:
    """How a learner is pre-trained."""
    learner = LEARNERS[name]
    return [
        sys.executable, "-m", "metasg_jax.cli", "pretrain", "--dataset=mnist", "--preset=cpu",
        f"--steps={learner.steps}", f"--seed={seed}", f"--game.seed={seed}", "--eval-seeds=0",
        f"--out={out}", "--resume", *learner.arguments,
    ]  # fmt: skip


@functools.cache
def asked(name: str) -> RunConfig:
    """The settings of a learner, but for its seeds."""
    return parse_pretrain(command(name, 0, Path())[4:]).config


def is_finished(name: str, seed: int, runs: Path) -> bool:
    """Whether a run is there, as registered, with all of its meta-steps.

    Raises:
        SystemExit: where it was made with other settings, or has more meta-steps.
    """
    folder = folder_of(runs, name, seed)
    checkpoints = folder / "checkpoints"
    step, steps = checkpoint.latest_step(checkpoints), LEARNERS[name].steps
    if step is None:
        return False
    config = checkpoint.load_config(checkpoints)
    wanted = asked(name)
    wanted = dataclasses.replace(
        wanted,
        seed=seed,
        game=dataclasses.replace(wanted.game, seed=seed),
        # chosen by memory when the run began
        meta=wanted.meta.replace(rollouts_at_once=config.meta.rollouts_at_once),
    )
    fields = checkpoint.differing_fields(config, wanted)
    if step > steps:
        fields.append(f"steps: {step}, not {steps}")
    if fields:
        other = "; ".join(fields)
        raise SystemExit(f"{folder} was made with other settings: {other}; move it away")
    return step == steps


def trained(name: str, seed: int, runs: Path, dataset):
    """(settings, state) of a finished run.

    Raises:
        CheckpointError: where it has not been finished.
    """
    if not is_finished(name, seed, runs):
        raise CheckpointError(f"{name}, seed {seed}: not trained yet; run the stage train")
    checkpoints = folder_of(runs, name, seed) / "checkpoints"
    config = checkpoint.load_config(checkpoints)
    return config, load_state(config, checkpoints, dataset)


def adapted(name: str, seed: int, told: str, runs: Path) -> Path:
    """A run like another one, whose policy is that of Psi, told the type: equation C3.

    As many steps of the same size as the policy was trained to be adapted by, on episodes of the
    type, played by its attacker of the pre-training. What is there already is left.

    Args:
        name: of the learner.
        seed: of its training.
        told: the attacker's type, one of the learner's game.
        runs: where runs are kept.

    Returns:
        The run's directory.
    """
    folder = runs / f"{name}-told-{told.partition('@')[0]}-{seed}"
    if checkpoint.latest_step(folder / "checkpoints") is not None:
        return folder
    dataset = load(CARD.game.dataset)
    config, state = trained(name, seed, runs, dataset)
    assert config.meta.adapt_steps > 0, name
    game = training_games(config, dataset)[0]
    index = config.game.types.index(told)
    theta = _adapted(jax.random.key(seed), game, state, config.meta, index)
    write_config(folder, config)
    after = state.replace(theta=theta)
    checkpoint.save(folder / "checkpoints", after.num_steps, after, config)
    return folder


@functools.partial(jax.jit, static_argnames="index")
def _adapted(key, game, state, meta, index: int):
    defender = defender_player(state, game, meta)
    attacker = attacker_player(state, game, meta, index)
    xi = game.prior[index]
    return adapt(key, game, xi, defender, attacker, meta.adapt_lr, meta)[0].params
