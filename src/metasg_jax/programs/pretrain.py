"""Pre-training as a program: stages one after the other, progress, checkpoints, resumption."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from tensorboardX import SummaryWriter

from metasg_jax import checkpoint
from metasg_jax.config import RunConfig
from metasg_jax.data import Dataset
from metasg_jax.data.simulated import Simulated
from metasg_jax.defender.files import CARD, find, read_card, read_defender, save_defender
from metasg_jax.errors import CheckpointError, ConfigError, NonFinitePolicyError
from metasg_jax.evaluation.plots import learning_curve
from metasg_jax.game.bsmg import FLGame
from metasg_jax.game.make import make_game
from metasg_jax.game.shapes import WIDTH, of_one_shape
from metasg_jax.learning.double_oracle import add_responses
from metasg_jax.learning.pretrain import pretrain
from metasg_jax.learning.state import (
    MetaSGState,
    defender_player,
    init_state,
)
from metasg_jax.policies import SetPolicy
from metasg_jax.programs import budget, run_directory
from metasg_jax.programs.console import progress
from metasg_jax.programs.mesh import pretrain_on, whole
from metasg_jax.programs.processes import agreed, held
from metasg_jax.programs.simulated_images import own_images
from metasg_jax.programs.teach import teach_program


def pretrain_program(
    config: RunConfig,
    dataset: Dataset,
    directory: Path,
    resume: bool,
    console: Console,
    prepare: Callable[[MetaSGState, Any], MetaSGState] | None = None,
    mesh: Mesh | None = None,
) -> MetaSGState:
    """Pre-trains into ``directory``, a checkpoint every chunk.

    The result does not depend on chunks, nor on how often the run was cut and resumed.

    Args:
        config: of the run.
        dataset: its data set.
        directory: of the run.
        resume: whether to go on from its newest checkpoint.
        console: for progress.
        prepare: (state, game) -> state, what a fresh run begins with instead of a fresh state.
        mesh: of the devices that share the meta-steps, see :mod:`metasg_jax.programs.mesh`; one
            device by default. It is no setting of the run: what begins on one mesh may go on on
            another, and differs by rounding. All its processes call this, with equal arguments.

    Raises:
        ConfigError: before anything is played, for settings out of range, or where ``directory``
            can't be written to.
        CheckpointError: when resuming from other settings or from damaged files, another process
            writes there, or a save fails (nothing is lost).
        NonFinitePolicyError: names the meta-step after which the policy is no longer finite.
    """
    config.check()
    game = make_game(config.game, config.fl, dataset)  # refuses bad settings before any writing
    if not game.action_names:
        raise ConfigError(
            f"game.rule = {config.game.rule!r} with game.post_defense = "
            f"{config.game.post_defense!r}: neither has knobs, so there is nothing to learn; "
            "client_trust has, or clipped_trimmed_mean"
        )
    with held(directory) as own:
        checkpoints = directory / "checkpoints"
        return pretrain_alone(config, dataset, own, resume, console, prepare, mesh, checkpoints)


def pretrain_alone(
    config: RunConfig,
    dataset: Dataset,
    directory: Path,
    resume: bool,
    console: Console,
    prepare: Callable[[MetaSGState, Any], MetaSGState] | None = None,
    mesh: Mesh | None = None,
    checkpoints: Path | None = None,
) -> MetaSGState:
    """:func:`pretrain_program` once ``directory`` is known to be writable, and held.

    With many processes it is this one's own, and ``checkpoints`` that of all of them.
    """
    checkpoints = checkpoints or directory / "checkpoints"
    begun = resume and checkpoint.latest_step(checkpoints) is not None
    if begun:
        _require_settings(config, checkpoints)
    games = training_games(config, dataset, own_images(config, dataset, directory, console, begun))
    game = games[0]
    if begun and config.meta.rollouts_at_once == -1:
        # chosen once, when the run began: another choice would round otherwise
        chosen = checkpoint.load_config(checkpoints).meta.rollouts_at_once
        config = dataclasses.replace(config, meta=config.meta.replace(rollouts_at_once=chosen))
    chosen = agreed(budget.resolve_chunk(config, game).meta.rollouts_at_once)
    config = dataclasses.replace(config, meta=config.meta.replace(rollouts_at_once=chosen))
    run = pretrain if mesh is None else pretrain_on(mesh)
    games = games if mesh is None else whole(games, mesh)
    owner = checkpoint.mark(checkpoint.lasting(config))
    key_init, key_steps = jax.random.split(jax.random.key(config.seed))
    key_respond = jax.random.fold_in(jax.random.key(config.seed), 2_000_003)
    state = begin_with(config.begin, init_state(key_init, game, config.meta))
    if "teach" in config.stages and not begun:
        data = {config.game.dataset: dataset}
        state = teach_program([config], data, state, game, directory, resume, console)
        checkpoint.save(checkpoints, 0, state, config)
        if "meta" not in config.stages:
            run_directory.write_config(directory, config)
            return state
    if prepare is not None and not begun:
        # copies: the learner donates its state
        state = jax.tree.map(jax.numpy.array, prepare(state, game))
    rows: list[dict] = []
    if resume:
        if not begun:
            # a run that was killed before its first checkpoint has the lines of one chunk at most
            run_directory.forget_metrics(directory, config.chunk)
            console.print(f"nothing to resume in {directory}: beginning anew")
        else:
            state = checkpoint.load(checkpoints, state, config)
            rows = run_directory.keep_metrics_until(directory, state.num_steps, owner)
            console.print(f"resumed {directory} after meta-step {state.num_steps}")
    run_directory.write_config(directory, config)
    per_step = budget.rounds_per_step(config)
    with SummaryWriter(str(directory)) as events, progress(console, "{task.fields[note]}") as bar:
        task = bar.add_task(
            "meta-steps", total=config.steps, completed=state.num_steps, note="compiling"
        )
        while "meta" in config.stages and state.num_steps < config.steps:
            first = state.num_steps
            count = min(config.chunk - first % config.chunk, config.steps - first)
            if state.population is not None:
                every = config.respond_every
                count = min(count, every - first % every)
                if first % every == 0:
                    state = _respond(key_respond, state, game, config, console)
            begin = time.perf_counter()
            state, info = _steps(run, key_steps, state, games, config.meta, first, count)
            info = jax.tree.map(np.asarray, jax.block_until_ready(info))
            seconds = time.perf_counter() - begin
            new = _metric_rows(info, first, seconds / count, per_step)
            _require_finite_rewards(info, first, game.prior.names)
            _require_finite(info, first, checkpoints)
            # lines first: resuming drops those past the checkpoint, but can't make missing ones
            run_directory.append_metrics(directory, new, owner)
            checkpoint.save(checkpoints, state.num_steps, state, config)
            for row in new:
                for name, value in row.items():
                    if name != "step" and isinstance(value, float):
                        events.add_scalar(name, value, row["step"])
            rows += new
            speed = per_step * count / seconds
            note = f"reward {new[-1]['return_D']:+.3f}  {speed:,.0f} rounds/s"
            bar.update(task, completed=state.num_steps, note=note)
            if not console.is_terminal:
                console.print(f"meta-step {state.num_steps}/{config.steps}  {note}")
    if rows:
        columns = {name: np.array([r[name] for r in rows]) for name in rows[0] if name != "types"}
        learning_curve(
            columns["step"], columns["return_D"], columns["final_D"], directory / "learning.png"
        )
    player = defender_player(state, game, config.meta, greedy=True)
    if isinstance(player.policy, SetPolicy):
        saved = directory / "defender"
        card = read_card(saved) if (saved / CARD).is_file() else {"trained_on": {"worlds": []}}
        save_defender(saved, player, card)
    return state


def begin_with(name: str, state: MetaSGState) -> MetaSGState:
    """The state with the weights of a defender, shipped or in a directory; as it is for none.

    Raises:
        CheckpointError: where there is no such defender, or it has another policy than the state.
    """
    if not name:
        return state
    player, _ = read_defender(find(name))
    ours, theirs = (jax.tree.map(jax.numpy.shape, each) for each in (state.theta, player.params))
    if ours != theirs:
        raise CheckpointError(
            f"begin = {name!r}: its policy has weights {theirs}, not {ours}: it is of another "
            "network, or decides about something else"
        )

    def taken(own, new):
        # where clients are counted, which is not normalised, a defender's file knows of one alone;
        # copies, for the learner donates its state, and two leaves may lie in one place
        return jax.numpy.array(new if jax.numpy.shape(new) == own.shape else own)

    normalizer = jax.tree.map(taken, state.normalizer, player.normalizer)
    return state.replace(theta=jax.tree.map(jax.numpy.array, player.params), normalizer=normalizer)


def _respond(key, state: MetaSGState, game, config: RunConfig, console: Console) -> MetaSGState:
    """A round of the double oracle, with what it found on the console."""
    key = jax.random.fold_in(key, state.num_steps)
    state, rows = add_responses(key, state, game, config.meta, config.respond_tries)
    found = ", ".join(
        f"{row['type']} earns {row['earned']:.3f}{'' if row['admitted'] else ' (not kept)'}"
        for row in rows
    )
    console.print(f"responses to the defender of meta-step {state.num_steps}: {found}")
    return state


def _require_settings(config: RunConfig, checkpoints: Path) -> None:
    """Refuses other settings than the checkpoint's before files are made for them."""
    before = checkpoint.load_config(checkpoints)
    if config.meta.rollouts_at_once == -1:  # chosen by memory, when the run began
        chosen = before.meta.rollouts_at_once
        config = dataclasses.replace(config, meta=config.meta.replace(rollouts_at_once=chosen))
    fields = checkpoint.differing_fields(before, config)
    if fields:
        raise CheckpointError(f"{checkpoints.parent} was made with {'; '.join(fields)}")


def training_games(
    config: RunConfig, dataset: Dataset, simulated: Simulated | None = None
) -> list[FLGame]:
    """The games that meta-steps take in turn: one, or one a level of ``config.levels``.

    Lists of images are padded, so that a run on another partition finds its program in the cache.

    Args:
        config: of the run.
        dataset: its data set.
        simulated: what clients hold, unless they are real.
    """
    levels = config.levels or (config.game.level,)
    configs = [dataclasses.replace(config.game, level=level) for level in levels]
    return of_one_shape([make_game(each, config.fl, dataset, simulated) for each in configs], WIDTH)


def _steps(run, key, state, games, meta, first: int, count: int):
    """Meta-steps ``first`` to ``first + count - 1``: all in one program where there is one game."""
    if len(games) == 1:
        return run(key, state, games[0], meta, count)
    infos = []
    for step in range(first, first + count):
        state, info = run(key, state, games[step % len(games)], meta, 1)
        infos.append(info)
    return state, jax.tree.map(lambda *leaves: np.concatenate(leaves), *infos)


def _metric_rows(info: dict, first: int, seconds: float, per_step: int) -> list[dict]:
    rows = []
    for i in range(len(info["finite"])):
        row: dict = {"step": first + i + 1, "seconds": seconds, "rounds_per_s": per_step / seconds}
        for name, value in info.items():
            if name == "finite":
                continue
            if np.ndim(value[i]) == 0:
                row[name] = float(value[i])
            else:
                row.setdefault("types", {})[name.removeprefix("type/")] = value[i].tolist()
        rows.append(row)
    return rows


def _require_finite_rewards(info: dict, first: int, names: tuple[str, ...]) -> None:
    for player in ("D", "A"):
        bad = ~np.isfinite(info[f"type/return_{player}"])
        if bad.any() and np.isfinite(info["update_norm"][: np.argwhere(bad)[0, 0]]).all():
            step, k = np.argwhere(bad)[0]
            raise ConfigError(
                f"type {names[k]!r} pays r_{player} that is not finite in meta-step "
                f"{first + step + 1}: rewards must be finite, or the objectives J do not exist"
            )


def _require_finite(info: dict, first: int, checkpoints: Path) -> None:
    if info["finite"].all():
        return
    step = first + int(np.argmin(info["finite"])) + 1
    good = checkpoint.latest_step(checkpoints)
    saved = "there is no checkpoint before it" if good is None else f"checkpoint {good} is good"
    raise NonFinitePolicyError(
        f"the policy is no longer finite after meta-step {step} ({saved}): lower meta.outer_lr, "
        "meta.adapt_lr or meta.defender_lr, or set meta.max_grad_norm"
    )
