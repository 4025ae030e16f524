"""What a run would cost: memory, rounds, products, and time by a short probe."""

import dataclasses
import time

import jax
import numpy as np
from rich.console import Console

from metasg_jax.config import RunConfig
from metasg_jax.data import Dataset
from metasg_jax.evaluation.tables import rich_table
from metasg_jax.game.draw import draw_types
from metasg_jax.game.make import make_game
from metasg_jax.game.rollout import rollout_groups
from metasg_jax.learning.state import attacker_player, defender_player, init_state
from metasg_jax.programs import budget
from metasg_jax.programs.device import free_memory
from metasg_jax.programs.judge import judged_plays


def dry_run_program(
    config: RunConfig,
    dataset: Dataset,
    console: Console,
    eval_seeds: int = 0,
    selection_seeds: int = 0,
) -> None:
    """Prints what a run would cost, from shapes and a short probe; writes nothing.

    ``eval_seeds`` and ``selection_seeds`` are those of the judge of a taught defender.
    """
    config.check()
    free = free_memory()
    if config.clients != "real":
        console.print(f"as if clients were real: {config.clients} ones cost the same to play")
    game = make_game(config.game, config.fl, dataset)
    if "teach" in config.stages:
        console.print(_cost_of_teacher(config, game, eval_seeds, selection_seeds))
        if "meta" not in config.stages:
            console.print("nothing was written; leave out --dry-run to run")
            return
    config = budget.resolve_chunk(config, game)
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


def _cost_of_teacher(config: RunConfig, game, eval_seeds: int, selection_seeds: int) -> str:
    """Rounds, steps and time of lessons and judging, by a probe against the run's own types."""
    teacher, meta = config.teach, config.meta
    kinds = len(draw_types(np.random.default_rng(0), 10, 2))
    worlds = teacher.worlds + teacher.own_play
    played = teacher.worlds + teacher.own_play * len(teacher.trims)
    rounds = played * kinds * (teacher.horizon or config.fl.horizon)
    probed = probe(game, config)
    a_round = float(np.mean(probed.seconds)) / (meta.group_size * meta.num_groups)
    plays = judged_plays(config, eval_seeds, selection_seeds)
    judged = plays * len(config.game.types) * config.fl.horizon
    return (
        f"the teacher: {rounds:,} FL rounds on {worlds} worlds, about "
        f"{_duration(rounds * a_round)}; {teacher.steps * (teacher.passes + 1):,} steps of Adam; "
        f"judging: {judged:,} FL rounds, about {_duration(judged * a_round)}; compiling (the probe "
        f"alone took {probed.compile_seconds:.0f} s) comes on top"
    )


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
