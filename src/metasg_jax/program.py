"""Pre-training and evaluation as programs: progress, files, resumption. The library does none."""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from tensorboardX import SummaryWriter

from metasg_jax import budget, checkpoint, files, runs
from metasg_jax.cgroup import memory_left
from metasg_jax.config import RunConfig
from metasg_jax.data import Dataset
from metasg_jax.data import cache as data_cache
from metasg_jax.data.simulated import Simulated
from metasg_jax.defender.files import CARD, read_card, save_defender
from metasg_jax.errors import CheckpointError, ConfigError, DataError, NonFinitePolicyError
from metasg_jax.evaluation.evaluate import evaluate
from metasg_jax.evaluation.plots import accuracy_curves, learning_curve
from metasg_jax.evaluation.tables import (
    Results,
    markdown_table,
    rich_table,
    summary_rows,
    type_rows,
    write_csv,
)
from metasg_jax.files import require_writable
from metasg_jax.game.bsmg import FLGame
from metasg_jax.game.draw import draw_types
from metasg_jax.game.make import make_game
from metasg_jax.game.rollout import rollout_groups
from metasg_jax.game.shapes import WIDTH, of_one_shape
from metasg_jax.learning.double_oracle import add_responses
from metasg_jax.learning.pretrain import pretrain
from metasg_jax.learning.state import (
    MetaSGState,
    attacker_player,
    defender_player,
    init_state,
)
from metasg_jax.lock import alone
from metasg_jax.own_images import own_images
from metasg_jax.policies import SetPolicy
from metasg_jax.teaching import teach_program


def enable_compilation_cache() -> None:
    """Keeps compiled programs between runs, beside the data cache.

    What the user has set stays. There is none where nothing can be kept, or where what is kept is
    another user's, who could have it run anything.
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    try:
        folder = data_cache.directory(None) / "xla"
        folder.mkdir(parents=True, exist_ok=True)
        mine = not hasattr(os, "getuid") or folder.stat().st_uid in (os.getuid(), 0)
    except (OSError, DataError):
        return
    if not (mine and os.access(folder, os.W_OK)):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def free_memory() -> int:
    """Bytes that the first device has free: of the machine's or container's memory on a CPU."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        table = dict(line.split(":", 1) for line in lines)
        free = int(table["MemAvailable"].split()[0]) * 1024
        left = memory_left()
        return free if left is None else min(free, left)
    except (OSError, KeyError):  # not Linux: of all memory, half may well be taken
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def resolve_chunk(config: RunConfig, game) -> RunConfig:
    """The settings with ``meta.rollouts_at_once`` chosen by memory, where it is -1.

    Raises:
        ConfigError: where not even one rollout fits.
    """
    if config.meta.rollouts_at_once != -1:
        return config
    limit = round(config.memory_gib * 2**30) or int(0.8 * free_memory())
    chosen = budget.fit(game, config.meta, limit)
    return dataclasses.replace(config, meta=config.meta.replace(rollouts_at_once=chosen))


def dry_run_program(config: RunConfig, dataset: Dataset, console: Console) -> None:
    """Prints what a run would cost, from shapes and a short probe; writes nothing."""
    config.check()
    free = free_memory()
    if config.clients != "real":
        console.print(f"as if clients were real: {config.clients} ones cost the same to play")
    game = make_game(config.game, config.fl, dataset)
    if "teach" in config.stages:
        teacher, kinds = config.teach, len(draw_types(np.random.default_rng(0), 10, 2))
        played = teacher.worlds + teacher.own_play * len(teacher.trims)
        console.print(
            f"the teacher: {played * kinds * config.fl.horizon:,} FL rounds on "
            f"{teacher.worlds + teacher.own_play} worlds, {teacher.steps * (teacher.passes + 1):,} "
            "steps of Adam"
        )
        if "meta" not in config.stages:
            console.print("nothing was written; leave out --dry-run to run")
            return
    config = resolve_chunk(config, game)
    meta, cost = config.meta, budget.estimate(game, config)
    rows = [[name, _size(bytes_)] for name, bytes_ in dataclasses.asdict(cost.memory).items()]
    rows.append(["at the peak", f"{_size(cost.memory.total)} of {_size(free)} free"])
    console.print(rich_table("memory, estimated", ["part", "size"], rows))
    batch, at_once = meta.group_size * meta.num_groups, meta.rollouts_at_once
    total = config.steps * cost.rounds
    rows = [
        ["rollouts at once", f"{at_once if 0 < at_once < batch else batch} of {batch}"],
        ["FL rounds", f"{total:,} at most, {cost.rounds:,} a meta-step"],
        ["matrix products of a round", f"{cost.flops_per_round / 1e6:,.3g} MFLOP"],
        ["of the whole run", f"{cost.flops_per_round * total / 1e12:,.3g} TFLOP"],
    ]
    console.print(rich_table("work", ["what", "how much"], rows))
    console.print("probing: compiles a short batch of the same rollouts and plays it")
    probed = probe(game, config)
    wall = config.steps * sum(
        batches * seconds * config.fl.horizon
        for batches, seconds in zip(cost.types_played, probed.seconds, strict=True)
    )
    mean = wall / (config.steps * sum(cost.types_played) * batch * config.fl.horizon)
    rows = [
        ["compiling the probe", f"{probed.compile_seconds:.1f} s"],
        ["FL rounds a second", f"{1 / mean:,.0f}"],
        ["the run, without compiling and judging", _duration(wall)],
    ]
    console.print(
        rich_table(f"time, from {probed.rounds} rounds of each type", ["what", "time"], rows)
    )
    console.print("nothing was written; leave out --dry-run to run")


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a short piece of a run took.

    Attributes:
        compile_seconds: tracing and compiling; little where the cache had it.
        seconds: of one round of a whole batch of rollouts, against each type.
        rounds: that were played.
    """

    compile_seconds: float
    seconds: tuple[float, ...]
    rounds: int


def probe(game, config: RunConfig, rounds: int = 5, patience: float = 30.0) -> Probe:
    """Times a few rounds of the real batch against each type.

    Types that are left after ``patience`` seconds count as the mean of the others. The fresh model
    of an episode is in it, so it errs on the slow side.
    """
    meta, rounds = config.meta, min(rounds, config.fl.horizon)
    short = game.replace(fl=game.fl.replace(horizon=rounds))
    state = init_state(jax.random.key(0), game, meta)

    @jax.jit
    def play(key, game, state, i):
        defender = defender_player(state, game, meta)
        attacker = attacker_player(state, game, meta, i)
        played = rollout_groups(
            key, game, game.prior[i], defender, attacker,
            meta.num_groups, meta.group_size, meta.rollouts_at_once,
        )  # fmt: skip
        return played.defender.reward, played.attacker.reward

    begin = time.perf_counter()
    args = (jax.random.key(1), short, state)
    compiled = play.lower(*args, 0).compile()
    compile_seconds = time.perf_counter() - begin
    seconds: list[float] = []
    begin = time.perf_counter()
    for i in range(len(game.prior)):
        if seconds and time.perf_counter() - begin > patience:
            seconds.append(sum(seconds) / len(seconds))
            continue
        # the first call of a type pays for touching memory
        tries = []
        for _ in range(2):
            start = time.perf_counter()
            jax.block_until_ready(compiled(*args, i))
            tries.append(time.perf_counter() - start)
        seconds.append(min(tries) / rounds)
    return Probe(compile_seconds, tuple(seconds), rounds)


def _size(count: int) -> str:
    return f"{count / 2**30:,.2f} GiB" if count >= 2**28 else f"{count / 2**20:,.2f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def pretrain_program(
    config: RunConfig,
    dataset: Dataset,
    directory: Path,
    resume: bool,
    console: Console,
    prepare: Callable[[MetaSGState, Any], MetaSGState] | None = None,
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

    Raises:
        ConfigError: before anything is played, for settings out of range, or where ``directory``
            can't be written to.
        CheckpointError: when resuming from other settings or from damaged files, another process
            writes there, or a save fails (nothing is lost).
        NonFinitePolicyError: names the meta-step after which the policy is no longer finite.
    """
    config.check()
    make_game(config.game, config.fl, dataset)  # refuses bad settings before anything is written
    require_writable(directory)
    with alone(directory):
        return pretrain_alone(config, dataset, directory, resume, console, prepare)


def pretrain_alone(
    config: RunConfig,
    dataset: Dataset,
    directory: Path,
    resume: bool,
    console: Console,
    prepare: Callable[[MetaSGState, Any], MetaSGState] | None = None,
) -> MetaSGState:
    """:func:`pretrain_program` once ``directory`` is known to be writable, and held."""
    checkpoints = directory / "checkpoints"
    begun = resume and checkpoint.latest_step(checkpoints) is not None
    if begun:
        _require_settings(config, checkpoints)
    games = training_games(config, dataset, own_images(config, dataset, directory, console, begun))
    game = games[0]
    if begun and config.meta.rollouts_at_once == -1:
        # chosen once, when the run began: another choice would round otherwise
        chosen = checkpoint.load_config(checkpoints).meta.rollouts_at_once
        config = dataclasses.replace(config, meta=config.meta.replace(rollouts_at_once=chosen))
    config = resolve_chunk(config, game)
    owner = checkpoint.mark(checkpoint.lasting(config))
    key_init, key_steps = jax.random.split(jax.random.key(config.seed))
    key_respond = jax.random.fold_in(jax.random.key(config.seed), 2_000_003)
    state = init_state(key_init, game, config.meta)
    if "teach" in config.stages and not begun:
        data = {config.game.dataset: dataset}
        state = teach_program([config], data, state, game, directory, resume, console)
        checkpoint.save(checkpoints, 0, state, config)
        if "meta" not in config.stages:
            runs.write_config(directory, config)
            return state
    if prepare is not None and not begun:
        # copies: the learner donates its state
        state = jax.tree.map(jax.numpy.array, prepare(state, game))
    rows: list[dict] = []
    if resume:
        if not begun:
            # a run that was killed before its first checkpoint has the lines of one chunk at most
            runs.forget_metrics(directory, config.chunk)
            console.print(f"nothing to resume in {directory}: beginning anew")
        else:
            state = checkpoint.load(checkpoints, state, config)
            rows = runs.keep_metrics_until(directory, state.num_steps, owner)
            console.print(f"resumed {directory} after meta-step {state.num_steps}")
    runs.write_config(directory, config)
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
            state, info = _steps(key_steps, state, games, config.meta, first, count)
            info = jax.tree.map(np.asarray, jax.block_until_ready(info))
            seconds = time.perf_counter() - begin
            new = _metric_rows(info, first, seconds / count, per_step)
            _require_finite_rewards(info, first, game.prior.names)
            _require_finite(info, first, checkpoints)
            # lines first: resuming drops those past the checkpoint, but can't make missing ones
            runs.append_metrics(directory, new, owner)
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


def _steps(key, state, games, meta, first: int, count: int):
    """Meta-steps ``first`` to ``first + count - 1``: all in one program where there is one game."""
    if len(games) == 1:
        return pretrain(key, state, games[0], meta, count)
    infos = []
    for step in range(first, first + count):
        state, info = pretrain(key, state, games[step % len(games)], meta, 1)
        infos.append(info)
    return state, jax.tree.map(lambda *leaves: np.concatenate(leaves), *infos)


def evaluate_program(
    state: MetaSGState,
    config: RunConfig,
    dataset: Dataset,
    directory: Path,
    num_seeds: int,
    grid: tuple[int, int, int],
    selection_seeds: int,
    console: Console,
) -> Results:
    """Evaluates, prints the tables and writes results.md, results.csv and accuracy.png."""
    require_writable(directory)
    begin = time.perf_counter()
    with progress(console, "worlds") as bar:
        task = bar.add_task("evaluating", total=None)

        def on_progress(what, done, total):
            bar.update(task, description=f"evaluating: {what}", completed=done, total=total)
            if not console.is_terminal:
                console.print(f"evaluating: {what} {done}/{total}")

        results, search = evaluate(
            state, config, dataset, num_seeds, grid, selection_seeds, on_progress
        )
    seconds = time.perf_counter() - begin
    summary = summary_rows(results)
    title = (
        f"{config.game.dataset}, q or level {config.game.level:g}, {config.fl.horizon} rounds, "
        f"{num_seeds} fresh worlds, after {state.num_steps} meta-steps"
    )
    parts = [f"# {title}\n", markdown_table(*summary)]
    for quantity in ("score", "accuracy", "asr"):
        header, body = type_rows(results, quantity)
        parts.append(f"\n## {quantity} by type (mean ± standard error over worlds)\n")
        parts.append(markdown_table(header, body))
        if len(header) > 1:
            console.print(rich_table(f"{quantity} by type", header, body))
    console.print(rich_table(f"score = accuracy - attack success: {title}", *summary))
    if search is not None:
        named = ", ".join(
            f"{n} {a:+.2f}" for n, a in zip(results.action_names, search.best, strict=True)
        )
        note = (
            f"best fixed action: {named} (of {len(search.actions)}, on {len(search.scores)} "
            "selection worlds); oracle: the best of them for each type"
        )
        console.print(note)
        parts.append(f"\n{note}\n")
    files.write_text(directory / "results.md", "\n".join(parts))
    write_csv(results, directory / "results.csv")
    accuracy_curves(results, directory / "accuracy.png")
    console.print(
        f"evaluated in {seconds:.0f} s; results.md, results.csv and accuracy.png are in {directory}"
    )
    return results


def load_run(directory: Path) -> tuple[RunConfig, Path]:
    """The settings of a run that has a checkpoint, and where that is."""
    checkpoints = directory / "checkpoints"
    if checkpoint.latest_step(checkpoints) is None:
        raise CheckpointError(f"there is no complete checkpoint in {directory}")
    return checkpoint.load_config(checkpoints), checkpoints


def load_state(config: RunConfig, checkpoints: Path, dataset: Dataset) -> MetaSGState:
    """The newest state of a run."""
    game = make_game(config.game, config.fl, dataset)
    return checkpoint.load(checkpoints, init_state(jax.random.key(0), game, config.meta), config)


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


def progress(console: Console, note: str) -> Progress:
    """A bar with a text of its task at the right; nothing where the console is no terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn(note),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
