"""``metasg adapt`` as a program: one run against a hidden type, with adaptation online."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from metasg_jax import checkpoint, files
from metasg_jax.config import Adaptation, RunConfig
from metasg_jax.data import Dataset
from metasg_jax.errors import CheckpointError, ConfigError
from metasg_jax.evaluation.plots import adaptation
from metasg_jax.evaluation.tables import rich_table
from metasg_jax.evaluation.worlds import world_settings
from metasg_jax.game.bsmg import FLGame
from metasg_jax.game.make import make_game
from metasg_jax.game.shapes import of_shared_shape
from metasg_jax.learning.state import MetaSGState, defender_player
from metasg_jax.online import (
    PSI,
    Block,
    Hidden,
    Mixture,
    Server,
    Standing,
    attackers_of,
    begin,
    final_metrics,
    learn_belief,
    next_block,
    own_world,
)
from metasg_jax.programs import run_directory
from metasg_jax.programs.lock import alone
from metasg_jax.registry import parse_variant

KEPT = "kept"
"""Column of the clients' share that was kept, in [0, 1], where the policy decides about each."""


def adapt_program(
    state: MetaSGState,
    config: RunConfig,
    dataset: Dataset,
    asked: Adaptation,
    directory: Path,
    resume: bool,
    console: Console,
) -> dict:
    """Plays the run; writes adapt.csv, adapt.png and adapt.json as it goes, returns the latter.

    Args:
        state: of the pre-training.
        config: of it.
        dataset: the real clients' images; the server's own world reads the root images alone.
        asked: what is run.
        directory: of the files and checkpoints, one a block.
        resume: go on from the newest checkpoint.
        console: for a line a block.

    Raises:
        UnknownNameError, ConfigError: for a Psi, a type or a number out of range, or where
            ``directory`` can't be written to.
        CheckpointError: when resuming a run that was asked for otherwise or is damaged, and where
            another process writes there.
    """
    asked.check(config.fl.horizon)
    psi = parse_variant(PSI, asked.psi, "psi")
    if config.trusts_clients and isinstance(psi, Mixture):
        raise ConfigError(
            f"psi = {asked.psi}: mixes actions of knobs; for a policy that decides about each "
            "client one of imagined, planned, trajectory, frozen, sampled"
        )
    real = dataclasses.replace(config.game, types=("none", asked.attack), probabilities=())
    settings = world_settings(dataclasses.replace(config, game=real), dataset, asked.world)
    game = of_shared_shape(make_game(settings, config.fl, dataset))
    files.require_writable(directory)
    with alone(directory):
        return _adapt_alone(
            state, config, dataset, asked, directory, resume, console, (psi, settings, game)
        )


def _adapt_alone(
    state: MetaSGState,
    config: RunConfig,
    dataset: Dataset,
    asked: Adaptation,
    directory: Path,
    resume: bool,
    console: Console,
    real: tuple,
) -> dict:
    """:func:`adapt_program` with its directory to itself; ``real`` is (psi, settings, game)."""
    psi, settings, game = real
    about = dataclasses.asdict(asked)
    run_directory.begin(directory / "adapt.json", about, resume)
    checkpoints = directory / "checkpoints"
    owner = checkpoint.mark([checkpoint.lasting(config), about])
    console.print(f"the server makes its own world of {config.game.num_root} root images")
    own = own_world(
        state, config, dataset, settings.seed, asked.clients, asked.num_simulated, asked.imagine
    )
    names = own.game.prior.names
    meta = defender_player(state, own.game, config.meta, True)
    key = jax.random.key(asked.world)
    belief = learn_belief(jax.random.fold_in(key, 1), own, meta.replace(greedy=False))
    server = Server(own, meta, belief, psi, asked.guard)
    prepared = psi.begin(jax.random.fold_in(key, 2), own, meta)
    total, quiet = game.horizon // asked.block, asked.conceal // asked.block
    types = (0,) * quiet + (1,) * (total - quiet)
    hidden = Hidden(game, types, attackers_of(settings.types, state, config, game))
    key_run = jax.random.fold_in(key, 3)
    standing = begin(key_run, hidden, server, prepared)
    knobs = shown_actions(game)
    rows: list[dict] = []
    if resume and checkpoint.latest_step(checkpoints) is not None:
        standing, rows = _resumed(checkpoints, standing, config, directory, owner)
        console.print(f"resumed {directory} after block {standing.blocks}")
    while standing.blocks < total:
        standing, block = next_block(key_run, standing, hidden, server)
        rows.append(_row(block, names, knobs, config.game.backdoor_weight))
        files.write_lines(directory / "adapt.csv", [*rows[0]], rows, owner)
        checkpoint.save(checkpoints, standing.blocks, _arrays(standing), config)
        console.print(_line(rows[-1], names, knobs))
    adaptation(rows, names, knobs, f"{asked.attack}, {asked.psi}",
               directory / "adapt.png")  # fmt: skip
    metrics = final_metrics(jax.random.fold_in(key, 4), hidden, standing)
    found = {name: float(getattr(metrics, name)) for name in ("score", "accuracy", "asr")}
    result = about | {k: None if np.isnan(v) else v for k, v in found.items()}
    files.write_json(directory / "adapt.json", result)
    cells = ["" if np.isnan(v) else f"{v:.3f}" for v in found.values()]
    console.print(rich_table(f"{asked.attack}, after {game.horizon} rounds", [*found], [cells]))
    return result


def shown_actions(game: FLGame) -> tuple[str, ...]:
    """Names of what is told of actions: of decisions about clients the share that was kept."""
    names, each = game.action_names, game.num_trusted
    return (KEPT, *names[each:]) if each else names


def _arrays(standing: Standing) -> dict:
    return {
        "run": standing.run, "params": standing.player.params, "psi": standing.state,
        "trust": standing.trust,
    }  # fmt: skip


def rows_of(path: Path, step: int, owner: str) -> list[dict]:
    """The first ``step`` lines of adapt.csv.

    Raises:
        CheckpointError: where there are fewer, or they are damaged or of another run.
    """

    def read(row: dict[str, str]) -> dict:
        return {name: _value(text) for name, text in row.items()}

    rows = files.read_lines(path, None, read, owner)[:step]
    if len(rows) < step:
        raise CheckpointError(
            f"{path} is damaged: it holds {len(rows)} of {step} blocks; put it back from a copy"
        )
    return rows


def _resumed(checkpoints: Path, standing: Standing, config: RunConfig, directory: Path, owner: str):
    step = checkpoint.latest_step(checkpoints)
    assert step is not None
    kept = checkpoint.load(checkpoints, _arrays(standing), config, step)
    rows = rows_of(directory / "adapt.csv", step, owner)
    player = standing.player.replace(params=kept["params"])
    return Standing(kept["run"], player, kept["psi"], kept["trust"], step), rows


def _value(text: str):
    try:
        return float(text)
    except ValueError:
        return text


def _row(block: Block, names, knobs, weight: float) -> dict:
    verdict = block.verdict
    actions = np.asarray(block.view.action)
    if KEPT in knobs:  # decisions about clients stand before the knobs
        each = actions.shape[1] - len(knobs) + 1
        kept = (actions[:, :each] > 0).mean(axis=1, keepdims=True)
        actions = np.concatenate([kept, actions[:, each:]], axis=1)
    actions = actions.mean(axis=0)
    return {
        "round": float(block.view.server.round),
        **{f"belief {name}": float(p) for name, p in zip(names, block.belief, strict=True)},
        **{knob: float(a) for knob, a in zip(knobs, actions, strict=False)},
        "loss": float(np.mean(block.view.loss)),
        "estimated success": float(np.mean(block.view.success)),
        "estimated reward": float(np.mean(block.view.reward(weight))),
        "hidden reward": float(np.mean(block.truth.reward)),
        "gain": "" if verdict is None else float(verdict.gain),
        "decision": "" if verdict is None else ("accepted" if verdict.accepted else "rejected"),
        "stranger": float(block.strange),
        "doubt": block.doubt,
        "misfit": "" if np.isnan(block.misfit) else block.misfit,
        "seconds": block.seconds,
    }


def _line(row: dict, names, knobs) -> str:
    stranger = " (a stranger)" if row["stranger"] else ""
    likely = sorted(names, key=lambda name: -row[f"belief {name}"])[:2]
    belief = ", ".join(f"{name} {row[f'belief {name}']:.2f}" for name in likely)
    action = ", ".join(f"{knob} {row[knob]:+.2f}" for knob in knobs)
    gain = "" if row["decision"] == "" else f"  candidate {row['decision']} ({row['gain']:+.4f})"
    gain += f", doubt {row['doubt']:.3f}" if row["doubt"] else ""
    return (
        f"round {row['round']:.0f}  belief: {belief}{stranger}  {action}  "
        f"reward {row['estimated reward']:+.3f} estimated{gain}  {row['seconds']:.1f} s"
    )
