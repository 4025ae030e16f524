"""What happens to a file: each kind of damage, and how an attempt to go on from it ended."""

import hashlib
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metasg_jax.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NonFinitePolicyError,
    UnknownNameError,
)

REFUSALS = (CheckpointError, ConfigError, DataError, NonFinitePolicyError, UnknownNameError)
KINDS = ("cut", "cut by a byte", "flipped", "flipped", "flipped", "emptied", "missing", "swapped",
         "zeroed")  # fmt: skip


class Killed(BaseException):
    """What a kill looks like from inside: nothing after it runs."""


class Injection(NamedTuple):
    """One fault.

    Attributes:
        group: of the table.
        name: says which.
        act: returns "handled", or what went wrong: "silent", "traceback" or "lost", and why.
    """

    group: str
    name: str
    act: Callable[[], str]


def injure(path: Path, kind: str, rng: np.random.Generator, other: Path) -> None:
    """Damages a file; ``other`` is the same one of another run."""
    content = bytearray(path.read_bytes())
    if kind == "missing":
        path.unlink()
        return
    if kind == "swapped":
        path.write_bytes(other.read_bytes() if other.is_file() else b"of another run")
        return
    if kind == "flipped" and content:
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    changed = {
        "cut": content[: len(content) // 2], "cut by a byte": content[:-1], "emptied": b"",
        "zeroed": bytes(len(content)),
    }.get(kind, content)  # fmt: skip
    path.write_bytes(bytes(changed))


def seen(folder: Path) -> dict[str, str]:
    """A digest of each file, but for those that a start always writes anew."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(("events.", ".lock", "config.json"))
    }


def attempt(folder: Path, go_on: Callable[[], object], right: object) -> str:
    """How going on from damaged files ended: right is what it gives where nothing is damaged."""
    before = seen(folder)
    try:
        found = go_on()
    except REFUSALS as error:
        gone = {name for name, mark in before.items() if seen(folder).get(name) != mark}
        if gone:
            return f"lost: {', '.join(sorted(gone))} ({error})"
        return "handled" if str(folder) in str(error) else f"traceback: names no file: {error}"
    except Exception:
        return f"traceback: {traceback.format_exc(limit=-3)}"
    return "handled" if found == right else "silent: other results, and no word of it"


def each_file(
    group: str, base: Path, other: Path, work: Path, seed: int,
    go_on: Callable[[Path], object], right: object, wanted: Callable[[str], bool],
) -> Iterator[Injection]:  # fmt: skip
    """Each kind of damage to each file of a directory that is wanted, on a copy.

    Args:
        group: of the table.
        base: a directory that is whole.
        other: of another run.
        work: where copies are made.
        seed: of positions of flips.
        go_on: given the copy, returns what is compared.
        right: what it returns of a copy that is whole.
        wanted: of a file's path within the directory.
    """
    names = [str(path.relative_to(base)) for path in sorted(base.rglob("*")) if path.is_file()]
    for n, name in enumerate(filter(wanted, names)):
        for k, kind in enumerate(KINDS):

            def act(name=name, kind=kind, place=(n, k)):
                copy = work / "copy"
                shutil.copytree(base, copy)
                try:
                    injure(copy / name, kind, np.random.default_rng([seed, *place]), other / name)
                    return attempt(copy, lambda: go_on(copy), right)
                finally:
                    shutil.rmtree(copy)

            yield Injection(group, f"{name}: {kind}", act)
