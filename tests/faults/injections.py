"""All injections, in the order of the table."""

import dataclasses
import errno
import fcntl
import itertools
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import numpy as np

from metasg_jax import files
from metasg_jax.aggregators import AGGREGATORS
from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig, TeachConfig
from metasg_jax.fl import receive
from metasg_jax.game.make import make_rule
from metasg_jax.models import make_model
from metasg_jax.programs import adapt, exploit, matrix, train_attacker
from metasg_jax.programs.lock import alone
from metasg_jax.programs.pretrain import pretrain_program
from tests.faults.damage import REFUSALS, Injection, Killed, attempt, each_file, seen
from tests.faults.worlds import ASKED, CONFIG, DATASET, FL, GAME, PLAN, QUIET, Room


def damaged_files(room: Room, seed: int) -> Iterator[Injection]:
    """Each file that is read back, damaged in each way."""
    places: dict[str, tuple[str, Callable, Callable[[str], bool]]] = {
        "checkpoints and metrics of a run": (
            "pretrained", room.pretrain, lambda name: "checkpoints/1/" not in name
        ),
        "runs of a matrix": (
            "matrices", room.matrix, lambda name: name.startswith("runs/")
        ),
        "lines and settings of exploit": (
            "exploits", room.exploit, lambda name: name.endswith((".csv", ".json"))
        ),
        "lines and settings of adapt": ("adaptations", room.adaptation, lambda name: True),
        "weights and card of a defender": ("defenders", room.defender, lambda name: True),
        "simulated images": ("imagined", room.images, lambda name: name.endswith(".npz")),
        "the cache of a data set": ("caches", room.data, lambda name: True),
    }  # fmt: skip
    for group, (made, go_on, wanted) in places.items():
        base, other, right = getattr(room, made)
        yield from each_file(group, base, other, room.folder, seed, go_on, right, wanted)


class Counted:
    """Stands in for a function of ``os``; at the call of a number, from this package, it fails."""

    def __init__(self, real, at: int, error: BaseException):
        self.real, self.at, self.error, self.calls = real, at, error, 0

    def __call__(self, *args, **kwargs):
        if sys._getframe(1).f_globals["__name__"].startswith("metasg_jax"):
            self.calls += 1
            if self.calls == self.at:
                raise self.error
        return self.real(*args, **kwargs)


def stopped_inside(room: Room, seed: int) -> Iterator[Injection]:
    """A kill, and a full disk, at every sync and every rename of each program's files."""
    places = {
        "pretrain": ("pretrained", room.pretrain),  # of three steps the newest two are kept
        "matrix": ("matrices", room.matrix),
        "exploit": ("exploits", room.exploit),
        "simulated images": ("imagined", room.images),
    }
    errors = {
        "kill -9 inside a rewrite": Killed,
        "a full disk inside a rewrite": lambda: OSError(errno.ENOSPC, "No space left on device"),
    }
    for (group, error), (name, (made, go_on)), call in itertools.product(
        errors.items(), places.items(), ("fsync", "replace")
    ):
        base, _, right = getattr(room, made)
        for at in (1, 2, 3):

            def act(base=base, right=right, go_on=go_on, call=call, at=at, error=error):
                folder = room.folder / "copy"
                shutil.copytree(base, folder)
                if base.name == "images":
                    (folder / "simulated.npz").unlink()
                try:
                    before = set(seen(folder))
                    try:
                        with mock.patch.object(os, call, Counted(getattr(os, call), at, error())):
                            go_on(folder)
                    except (Killed, *REFUSALS):
                        gone = before - set(seen(folder))
                        if gone := {name for name in gone if "checkpoints/1/" not in name}:
                            return f"lost: {', '.join(sorted(gone))}"
                    return attempt(folder, lambda: go_on(folder), right)
                except Exception:
                    return f"traceback: {traceback.format_exc(limit=-3)}"
                finally:
                    shutil.rmtree(folder)

            yield Injection(group, f"{name}: {call} {at}", act)


def play_in(program: str, folder: Path) -> None:
    """What a process of its own does until it is killed."""
    getattr(Room(folder.parent), program)(folder)


def _has_files(folder: Path) -> bool:
    """Whether a program has written one; names alone, for they come and go while it plays."""
    names = [name for _, _, names in os.walk(folder) for name in names]
    return any(not name.startswith((".lock", "config.json")) for name in names)


def killed_from_outside(room: Room, seed: int) -> Iterator[Injection]:
    """A process that plays is killed soon after its first file; here its run goes on to the end."""
    rng = np.random.default_rng([seed, 9])
    places: dict[str, tuple[str, Callable[[], object]]] = {
        "pretrain": ("pretrain", lambda: room.pretrained[2]),
        "matrix": ("matrix", lambda: room.matrices[2]),
        "exploit": ("exploit", lambda: room.exploits[2]),
        "adapt": ("adapt", lambda: room.adapted),
    }
    for name, (program, right) in places.items():
        for delay in (0.0, float(rng.uniform(0.0, 0.5)), float(rng.uniform(0.0, 2.0))):

            def act(program=program, right=right, delay=delay):
                want, folder = right(), room.folder / "killed"
                process = get_context("spawn").Process(target=play_in, args=(program, folder))
                process.start()
                while process.is_alive() and not _has_files(folder):
                    time.sleep(0.001)
                process.join(delay)
                process.kill()
                process.join()
                try:
                    return attempt(folder, lambda: getattr(room, program)(folder), want)
                finally:
                    shutil.rmtree(folder)

            yield Injection("kill -9 from outside", f"{name}: after {delay:.2f} s", act)


def programs(folder: Path) -> dict[str, Callable[[], object]]:
    """Each that writes, with a directory: called, and stopped before it plays."""
    state = None
    opponent = train_attacker.opponent_of("krum", "rl@0.25", GAME, FL, train_attacker.LEARNER, None)
    return {
        "pretrain": lambda: pretrain_program(CONFIG, DATASET, folder, False, QUIET),
        "matrix": lambda: matrix.matrix_program(PLAN, DATASET, folder, QUIET),
        "exploit": lambda: exploit.exploit_program(
            ("krum",), (), GAME, FL, lambda name: DATASET, {"selection": 1, "final": 2}, folder,
            QUIET, ("none",),
        ),
        "attack": lambda: train_attacker.attack_program(opponent, DATASET, folder, False, 0, QUIET),
        "adapt": lambda: adapt.adapt_program(
            state, CONFIG, DATASET, ASKED, folder, False, QUIET
        ),
    }  # fmt: skip


def refused(go: Callable[[], object], text: str) -> str:
    try:
        go()
    except REFUSALS as error:
        return "handled" if text in str(error) else f"traceback: names no place: {error}"
    except Exception:
        return f"traceback: {traceback.format_exc(limit=-3)}"
    return "silent: went on"


def places_that_can_not_be(room: Room, seed: int) -> Iterator[Injection]:
    """Two writers, and a directory that can't be written to: refused before anything is played."""
    for name in programs(room.folder):

        def held(name=name):
            folder = room.folder / "held"
            folder.mkdir(exist_ok=True)
            with (folder / ".lock").open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                return refused(programs(folder)[name], "another process is writing to it")

        yield Injection("two writers", name, held)

        def unlocked(name=name):
            folder = room.folder / "unlocked"
            folder.mkdir(exist_ok=True)

            def flock(*args):
                raise OSError(errno.ENOSYS, "Function not implemented")

            with mock.patch.object(fcntl, "flock", flock), alone(folder):
                return refused(programs(folder)[name], "another process is writing to it")

        yield Injection("two writers, without locks", name, unlocked)
        for place in ("/dev/null/x", "/proc/x"):

            def unwritable(name=name, place=place):
                return refused(programs(Path(place))[name], f"out = {place}")

            yield Injection("a directory that can't be written to", f"{name}: {place}", unwritable)


ROWS = {
    "NaN": np.nan, "Inf": np.inf, "-Inf": -np.inf, "1e38": 1e38, "-1e38": -1e38, "1e25": 1e25,
    "denormal": 1e-42, "zero": 0.0,
}  # fmt: skip
SHAPES = {
    "wrong shape": lambda row: {"w": np.ones(5, np.float32)},
    "wrong names": lambda row: {"v": row},
    "no tree": lambda row: row[0],
}
SPECIAL = {"bulyan": "bulyan:f=1", "foolsgold": "foolsgold:num_clients=11"}
LENT = ("client_trust",)
"""Needs a policy's decision about each client, and has tests of its own."""


def hostile_rows(room: Room, seed: int) -> Iterator[Injection]:
    """Two of eleven clients send what no client should, to every rule."""
    rng = np.random.default_rng(seed)
    model = make_model("mlp", (4, 4, 1), 3, (4,))
    size = sum(leaf.size for leaf in _leaves(model))
    honest = rng.normal(size=(11, size)).astype(np.float32) * 0.1
    for name in AGGREGATORS:
        if name in LENT:
            continue
        rule = make_rule(SPECIAL.get(name, name), 11, 0.2, model)
        for kind, value in ROWS.items():

            def act(rule=rule, value=value):
                rows = honest.copy()
                rows[:2] = value
                return _aggregated(rule, rows)

            yield Injection("hostile rows x every rule", f"{name}: {kind}", act)
    for kind, change in SHAPES.items():

        def sent(change=change):
            clients = [{"w": row} for row in honest]
            clients[3] = change(honest[3])
            return refused(lambda: receive({"w": honest[0] * 0}, clients), "3")

        yield Injection("models of another shape", kind, sent)


def _leaves(model):
    import jax

    return jax.tree.leaves(model.init(jax.random.key(0)))


def _aggregated(rule, rows: np.ndarray) -> str:
    import jax

    sent = {"w": np.zeros(rows.shape[1], np.float32)}
    got = receive(sent, [{"w": -row} for row in rows])
    got = got.replace(root_update=jax.numpy.asarray(rows[5]))
    state = rule.init(len(rows), rows.shape[1])
    update, _, info = _call(rule, state, got)
    if not np.isfinite(update).all():
        return "silent: the update is not finite"
    bad = (~np.isfinite(rows)).any(1).sum()
    if info["rejected"] < bad:
        return f"silent: {bad} rows are not finite, {info['rejected']} were rejected"
    return "handled"


def _call(rule, state, got):
    import jax

    return _jitted(rule, jax.random.key(0), state, got)


def _jitted(rule, key, state, got):
    import jax

    global _program
    if _program is None:
        _program = jax.jit(lambda rule, key, state, got: rule(key, state, got))
    return _program(rule, key, state, got)


_program = None

BAD = {"int": (-7, 10**20), "float": (float("nan"), -1e39, 1e39)}
# any float is a setting there, or any integer; said by the field's text
FREE = {"game.level", "fl.precision"}


def bad_settings(room: Room, seed: int) -> Iterator[Injection]:
    """Every number of every settings class, out of range: refused by name before it is traced."""
    for cls in (FLConfig, MetaConfig, TeachConfig, GameConfig, RunConfig):
        for each in dataclasses.fields(cls):
            kind = type(each.default).__name__
            for value in BAD.get(kind, ()):
                if isinstance(each.default, bool):
                    continue

                def act(cls=cls, each=each, value=value):
                    config = dataclasses.replace(cls(), **{each.name: value})
                    return refused(config.check, each.name)

                yield Injection(
                    "numbers out of range", f"{cls.__name__}.{each.name} = {value}", act
                )


def foreign_files(room: Room, seed: int) -> Iterator[Injection]:
    """Files of other settings, of an older version, or of another program."""

    def case(name, made, go_on, change):
        base, other, right = getattr(room, made)

        def act():
            folder = room.folder / "copy"
            shutil.copytree(base, folder)
            try:
                change(folder, other)
                return attempt(folder, lambda: go_on(folder), right)
            finally:
                shutil.rmtree(folder)

        return Injection("foreign and older files", name, act)

    def renamed(folder, other):
        (folder / "checkpoints/2").rename(folder / "checkpoints/7")

    def others_checkpoint(folder, other):
        shutil.rmtree(folder / "checkpoints/2")
        shutil.copytree(other / "checkpoints/2", folder / "checkpoints/2")

    def others_checkpoints(folder, other):
        shutil.rmtree(folder / "checkpoints")
        shutil.copytree(other / "checkpoints", folder / "checkpoints")

    def earlier_as_later(folder, other):
        shutil.rmtree(folder / "checkpoints/2")
        shutil.copytree(folder / "checkpoints/1", folder / "checkpoints/2")

    def unsealed(folder, other):
        path = folder / "checkpoints/2/_CHECKPOINT_METADATA"
        tree = json.loads(path.read_text())
        del tree["custom_metadata"]["seal"]
        path.write_text(json.dumps(tree))

    def plain_metrics(folder, other):
        (folder / "metrics.jsonl").write_text('{"step": 1, "return_D": 0.0}\n' * 2)

    def no_checkpoints(folder, other):
        shutil.rmtree(folder / "checkpoints")

    for change in (renamed, others_checkpoint, others_checkpoints, earlier_as_later, unsealed,
                   plain_metrics, no_checkpoints):  # fmt: skip
        yield case(f"pretrain: {change.__name__}", "pretrained", room.pretrain, change)

    def older(folder, other):
        path = min((folder / "runs").iterdir())
        path.write_text(json.dumps(files.read_json(path)))

    def another_program(folder, other):
        min((folder / "runs").iterdir()).write_text('{"a": 1}')

    for change in (older, another_program):
        yield case(f"matrix: {change.__name__}", "matrices", room.matrix, change)


GROUPS = (damaged_files, stopped_inside, killed_from_outside, foreign_files,
          places_that_can_not_be, hostile_rows,
          bad_settings)  # fmt: skip


def injections(room: Room, seed: int) -> Iterator[Injection]:
    """All of them."""
    for group in GROUPS:
        yield from group(room, seed)
