"""One process at a time in a directory of results."""

import contextlib
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from metasg_jax.errors import CheckpointError

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Holds a lock on ``out`` that ends with the process, however it ends.

    Where a file system has no such locks (some of NFS and Lustre), a file that names its owner
    stands for one; that of a process of this machine that has ended is taken over.

    Raises:
        CheckpointError: where another process holds it, or it can't be had (says why).
    """
    path = out / ".lock"
    try:
        file = _locked(out, path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    if file is None:
        with _owned(out, out / ".lock.owner"):
            yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _locked(out: Path, path: Path) -> IO | None:
    """The open file that holds the lock; None where there are no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    there = path.exists()
    while True:
        file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno in _HELD:
                raise CheckpointError(f"{out}: another process is writing to it") from None
            if error.errno not in _NO_LOCKS:
                raise
            if not there:
                path.unlink(missing_ok=True)
            return None
        # who held it before may have removed the file in between: then this is a lock on nothing
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()


@contextlib.contextmanager
def _owned(out: Path, path: Path) -> Iterator[None]:
    me = {"host": socket.gethostname(), "pid": os.getpid(),
          "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}  # fmt: skip
    try:
        while not _created(path, json.dumps(me)):
            before = path.read_text(encoding="utf-8", errors="replace")
            if not _has_ended(before):
                raise CheckpointError(
                    f"{out}: another process is writing to it ({_told(before)}); where that has "
                    f"ended, remove {path}"
                )
            _take_away(path, before)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _created(path: Path, text: str) -> bool:
    """Whether the file was not there, and is now."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    return True


def _owner(text: str) -> tuple[str, int, str]:
    """(host, process, since); raises ValueError, KeyError or TypeError for what is no owner."""
    owner = json.loads(text)
    return str(owner["host"]), int(owner["pid"]), str(owner["since"])


def _told(text: str) -> str:
    try:
        host, pid, since = _owner(text)
    except (ValueError, KeyError, TypeError):
        return "which one is not known"
    return f"process {pid} on {host}, since {since}"


def _has_ended(text: str) -> bool:
    """Whether the owner is a process of this machine that is no more; False where unknown."""
    try:
        host, pid, _ = _owner(text)
        # a signal of 0 asks, but for Windows, where it ends the process
        if host != socket.gethostname() or pid <= 0 or sys.platform == "win32":
            return False
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (ValueError, KeyError, TypeError, OverflowError, PermissionError):
        return False
    return False


def _take_away(path: Path, text: str) -> None:
    """Removes an owner's file if it still says so: another process may have been faster."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, aside)
        if aside.read_text(encoding="utf-8", errors="replace") != text:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()
