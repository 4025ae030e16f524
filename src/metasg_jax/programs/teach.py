"""The teacher as a program: worlds played, lessons kept, progress, resumption."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from metasg_jax import checkpoint
from metasg_jax.config import RunConfig
from metasg_jax.data import Dataset
from metasg_jax.data.simulated import Simulated
from metasg_jax.defender import save_defender
from metasg_jax.errors import CheckpointError, ConfigError
from metasg_jax.features.view import NUM_FEATURES, ClientView
from metasg_jax.files import whole
from metasg_jax.game.draw import draw_game
from metasg_jax.game.make import simulated_clients
from metasg_jax.learning.state import MetaSGState, defender_player, policies
from metasg_jax.learning.teacher import (
    Lessons,
    begin_teaching,
    collect_lessons,
    learn_normalizer,
    teach,
)
from metasg_jax.policies import SetPolicy
from metasg_jax.responders import Looking, make_responder

_CHUNK = 500
"""Steps of the teacher between two lines of progress."""


def teach_program(
    kinds: Sequence[RunConfig],
    datasets: dict[str, Dataset],
    state: MetaSGState,
    game,
    directory: Path,
    resume: bool,
    console: Console,
) -> MetaSGState:
    """Plays worlds drawn at random, then learns from them; again under own play.

    The first kind's settings of the teacher, the learner and the seed count. Kinds differ in
    shapes: data set, model, counts, steps; each is a program to compile, and they take turns.

    Args:
        kinds: of worlds.
        datasets: by name.
        state: a fresh learner's.
        game: one of the first kind: its policy is taught.
        directory: of the run: ``lessons/`` has a file a world, ``teaching/`` a checkpoint a pass.
        resume: whether to go on from what is there.
        console: for progress.

    Raises:
        ConfigError: where a kind's rule does not decide about each client, or its responder is none
            that looks.
        CheckpointError: where lessons were there and ``resume`` is off, or they are damaged.
    """
    config, teacher = kinds[0], kinds[0].teach
    for kind in kinds:
        if not kind.trusts_clients or kind.game.observation.partition(":")[0] != "clients":
            raise ConfigError(
                f"stages: teach needs game.rule = 'client_trust' and game.observation = 'clients', "
                f"not {kind.game.rule!r} and {kind.game.observation!r}"
            )
        if not isinstance(make_responder(kind.teach.responder, 1), Looking | None):
            raise ConfigError(
                f"teach.responder: {kind.teach.responder!r}: of looking, with its options, and none"
            )
    folder, passes = directory / "lessons", directory / "teaching"
    if folder.is_dir() and any(folder.iterdir()) and not resume:
        raise CheckpointError(f"{folder} is not empty: go on with --resume")
    folder.mkdir(parents=True, exist_ok=True)
    policy = policies(game, config.meta)[0]
    assert isinstance(policy, SetPolicy)
    done = checkpoint.latest_step(passes) or 0
    if done:
        state = checkpoint.load(passes, state, config, step=done)
        console.print(
            f"resumed {directory}: the teacher has done {done} of {teacher.passes + 1} passes"
        )
    shares = [teacher.worlds, *_shares(teacher.own_play, teacher.passes)]
    number, lessons = 0, []
    for stage, count in enumerate(shares):
        told = stage == 0
        for _ in range(count):
            path = folder / f"{number:04d}.npz"
            kind = kinds[number % len(kinds)]
            mark = _mark(kind, config.seed, number)
            if path.is_file():
                lessons.append(read_lessons(path, mark))
            else:
                begin = time.perf_counter()
                world, blended = _draw(kind, datasets[kind.game.dataset], config.seed, number)
                trims = teacher.trims if not told else teacher.trims[:1]
                got = collect_lessons(
                    jax.random.fold_in(jax.random.key(config.seed), number),
                    state, world, config.meta, trims, told,
                    None if told else blended, kind.teach.responder,
                )  # fmt: skip
                got = got.replace(earned=_widened(got.earned, len(teacher.trims)))
                _write(path, got, mark)
                lessons.append(got)
                who = "told filter" if told else f"own play {stage}"
                console.print(
                    f"world {number + 1}/{sum(shares)} ({who}): {kind.game.dataset}, "
                    f"{kind.game.model} {kind.game.hidden}, {len(got) * len(trims):,} rounds, "
                    f"{time.perf_counter() - begin:.0f} s"
                )
            number += 1
        if stage < done or not lessons:
            continue
        state = learn_from(state, lessons, policy, config, stage, console)
        checkpoint.save(passes, stage + 1, state, config)
        player = defender_player(state, game, config.meta, greedy=True)
        save_defender(directory / "defender", player, card_of(kinds, lessons))
    return state


def learn_from(state, lessons, policy, config: RunConfig, stage: int, console: Console):
    """A pass over all lessons so far: the normaliser is of the first."""
    groups: dict[int, list[Lessons]] = {}
    for each in lessons:
        groups.setdefault(each.malicious.shape[1], []).append(each)
    joined = tuple(
        jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)), *several)
        for several in groups.values()
    )
    if stage == 0:  # else it stays as it was when the policy began to learn
        state = learn_normalizer(state, joined)
    teacher, opt = config.teach, begin_teaching(state, config.teach)
    key = jax.random.fold_in(jax.random.key(config.seed + 1), stage)
    for first in range(0, teacher.steps, _CHUNK):
        count = min(_CHUNK, teacher.steps - first)
        state, opt, info = teach(
            key, state, opt, joined, policy, teacher, teacher.trims, jnp.int32(first), count
        )
        last: dict[str, float] = {name: float(value[-100:].mean()) for name, value in info.items()}
        console.print(
            f"teacher, pass {stage + 1} of {teacher.passes + 1}, "
            f"step {first + count}/{teacher.steps}: "
            f"loss {last['loss']:.3f}, right {last['accuracy']:.1%}, "
            f"trim misses {last['missed']:.3f}"
        )
    return state


def card_of(kinds: Sequence[RunConfig], lessons: Sequence[Lessons]) -> dict:
    """What is to be said of a taught defender: what it was trained on, and the ranges of inputs."""
    seen = np.concatenate(
        [each.view.clients[..., :NUM_FEATURES].reshape(-1, NUM_FEATURES)[::7] for each in lessons]
    )
    low, high = np.quantile(seen, [0.01, 0.99], axis=0)
    worlds = [
        f"{k.game.dataset}/{k.game.pool}, {k.game.model} {list(k.game.hidden)}, "
        f"{k.clients} clients: {k.fl.num_sampled} of {k.fl.num_clients}, "
        f"{k.fl.local_steps} steps of {k.fl.batch_size}"
        for k in kinds
    ]
    return {
        "trained_on": {
            "worlds": list(dict.fromkeys(worlds)),
            "drawn": len(lessons),
            "rounds": int(sum(len(each) for each in lessons)),
            "root_images": sorted({k.game.num_root for k in kinds}),
        },
        "ranges": {"low": low.tolist(), "high": high.tolist()},
    }


def _draw(kind: RunConfig, dataset: Dataset, seed: int, number: int):
    """World ``number`` of a run: its own root images, partition, trigger and attackers."""
    drawn = 1_000 * seed + number
    fl = kind.fl.replace(horizon=kind.teach.horizon or kind.fl.horizon)
    kind = dataclasses.replace(kind, game=dataclasses.replace(kind.game, seed=drawn), fl=fl)
    simulated: Simulated | None = None
    if kind.clients != "real":
        simulated, _ = simulated_clients(kind.game, dataset, kind.clients, kind.num_simulated)
    return draw_game(np.random.default_rng([4_000_037, drawn]), kind, dataset, simulated)


def _shares(total: int, parts: int) -> list[int]:
    """``total`` in ``parts`` almost equal parts."""
    return [total * (i + 1) // parts - total * i // parts for i in range(parts)]


def _widened(earned, width: int):
    more = width - earned.shape[1]
    return np.pad(earned, ((0, 0), (0, more), (0, 0)), constant_values=np.nan)


def _mark(kind: RunConfig, seed: int, number: int) -> str:
    """Fingerprint of one world and its settings: lessons with another fingerprint are not read."""
    return checkpoint.mark([checkpoint.lasting(kind), seed, number])


def _write(path: Path, lessons: Lessons, mark: str) -> None:
    view = {f"view_{name}": getattr(lessons.view, name) for name in ClientView.__dataclass_fields__}
    with whole(path) as part:
        np.savez(
            part, malicious=lessons.malicious, harm=lessons.harm, earned=lessons.earned,
            mark=mark, **view,
        )  # fmt: skip


def read_lessons(path: Path, mark: str = "") -> Lessons:
    """The lessons of a world.

    Args:
        path: of the file.
        mark: of the settings that they must have been made with; empty takes any.

    Raises:
        CheckpointError: where they can't be read, or were made with others.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            if mark and str(kept["mark"]) != mark:
                raise ValueError("it is of another world, or of other settings")
            view = ClientView(**{n: kept[f"view_{n}"] for n in ClientView.__dataclass_fields__})
            return Lessons(view, kept["malicious"], kept["harm"], kept["earned"])
    except Exception as error:  # a damaged archive raises many kinds
        raise CheckpointError(f"{path} can't be read: {error}; remove it and go on") from error
