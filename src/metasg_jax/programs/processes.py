"""One run by many processes: who joins, and which files each of them writes.

Which processes there are is for the launcher to say, by JAX's environment; what they compute
together is JAX's own runtime.
"""

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax._src import clusters  # the public way to these also waits for all, and ends the process
from jax.experimental import multihost_utils

from metasg_jax import checkpoint
from metasg_jax.errors import CheckpointError, ConfigError, JoinError
from metasg_jax.files import require_writable
from metasg_jax.programs.lock import alone

_HELD = (".lock", ".lock.owner")
_KEPT = ("metrics.jsonl", "simulated.npz")
"""What a run reads of itself when it goes on, beside its checkpoints."""


def join(within: float) -> None:
    """Joins the processes of this run; does nothing where a launcher says of no others.

    Process 0 hears from each of the others on the coordinator's port before JAX's runtime takes it:
    that ends a process after its own time limit, and says of nobody who is missing.

    Args:
        within: seconds in which all must have joined.

    Raises:
        ConfigError: where the environment names some of address, number and rank only.
        JoinError: names the ranks that did not join.
    """
    address, count, rank, local = _environment(round(within))
    if count == 1 or (address is None and count is None and rank is None):
        return
    if address is None or count is None or rank is None or not 0 <= rank < count:
        raise ConfigError(
            f"JAX_COORDINATOR_ADDRESS = {address}, JAX_NUM_PROCESSES = {count}, JAX_PROCESS_ID = "
            f"{rank}: all three, or a launcher that JAX knows; the last from 0, below the second"
        )
    deadline = time.monotonic() + within
    missing = _hear(address, count, deadline) if rank == 0 else _call(address, rank, deadline)
    if missing:
        named = f"process {missing[0]}" if len(missing) == 1 else f"processes {missing}"
        raise JoinError(
            f"{named} of {count} did not join at {address} within {within:g} s, as process {rank} "
            "has it: is it started, with its own rank, and is the port open? (--join-within waits "
            "longer)"
        )
    # a signal ends a process, with many as with one: JAX would only take notice of it
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        address, count, rank, local,
        initialization_timeout=max(30, round(within)), shutdown_timeout_seconds=60,
        cluster_detection_method="deactivate",
    )  # fmt: skip


def _environment(within: int):
    """(coordinator's address, number of processes, rank, ids of local devices), None each."""

    def number(name):
        text = os.environ.get(name)
        if text is not None and not text.isdecimal():
            raise ConfigError(f"{name} = {text!r}: a whole number, 0 or more")
        return None if text is None else int(text)

    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address is not None and not address.rpartition(":")[2].isdecimal():
        raise ConfigError(f"JAX_COORDINATOR_ADDRESS = {address!r}: host:port")
    count, rank = number("JAX_NUM_PROCESSES"), number("JAX_PROCESS_ID")
    if None not in (address, count, rank):
        return address, count, rank, None
    return clusters.ClusterEnv.auto_detect_unset_distributed_params(
        address, count, rank, None, None, within
    )


def _hear(address: str, count: int, deadline: float) -> list[int]:
    """On process 0: the ranks that did not call until the deadline; all who did are told them."""
    callers: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(_listen(int(address.rpartition(":")[2])))
        except OSError as error:
            raise JoinError(f"process 0 can't listen at {address}: {error.strerror}") from error
        while len(callers) < count - 1 and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            with contextlib.suppress(OSError, ValueError):  # whoever else knocks is not heard
                caller = stack.enter_context(server.accept()[0])
                caller.settimeout(5)
                rank = int(caller.recv(16))
                if 0 < rank < count:
                    callers[rank] = caller
        missing = [rank for rank in range(1, count) if rank not in callers]
        for caller in callers.values():
            with contextlib.suppress(OSError):
                caller.sendall((",".join(map(str, missing)) or "all").encode())
                caller.shutdown(socket.SHUT_WR)
                caller.recv(1)  # they hang up first, so that the port is free at once
        return missing


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _call(address: str, rank: int, deadline: float) -> list[int]:
    """On another: the ranks that process 0 misses; [0] where there is no such process."""
    host, _, port = address.rpartition(":")
    while (left := deadline - time.monotonic()) > 0:
        # ValueError: it is no roll call any more, but JAX's runtime that answers there
        with contextlib.suppress(OSError, ValueError):
            with socket.create_connection((host.strip("[]"), int(port)), timeout=left) as line:
                line.sendall(str(rank).encode())
                line.settimeout(max(left, 0.1) + 5)  # its clock may have begun later
                heard = b"".join(iter(lambda: line.recv(4096), b"")).decode()
            return [] if heard == "all" else [int(each) for each in heard.split(",")]
        time.sleep(0.2)
    return [0]


@contextlib.contextmanager
def held(out: Path) -> Iterator[Path]:
    """Holds the directory of a run for its processes, and yields where this one writes.

    Process 0 writes into ``out``; checkpoints are everybody's, by Orbax, so all must see it. What
    else another writes goes into a directory that is removed at the end.

    Raises:
        ConfigError: where ``out`` can't be written to, or another process does not see it.
        CheckpointError: where another run writes there.
    """
    if jax.process_count() == 1:
        require_writable(out)
        with alone(out):
            yield out
        return
    with contextlib.ExitStack() as stack:
        error: Exception | None = None
        if jax.process_index() == 0:
            own = out
            try:
                require_writable(out)
                stack.enter_context(alone(out))
            except (ConfigError, CheckpointError) as problem:
                error = problem
        else:
            own = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _require_all(
            error is None, error or CheckpointError("process 0 could not begin: it says why")
        )
        seen = any((out / name).exists() for name in _HELD)
        _require_all(
            seen,
            ConfigError(
                f"out = {out}: not every process sees what process 0 writes there; a directory on "
                f"a file system that all {jax.process_count()} share"
            ),
        )
        for name in _KEPT:
            if own != out and (out / name).is_file():
                shutil.copy(out / name, own / name)
        wait_for_all()  # nothing is written before all have their copies
        yield own


def wait_for_all() -> None:
    """Returns once all processes of the run are here."""
    _require_all(True, None)


def _require_all(fine: bool, error: Exception | None) -> None:
    """Raises the error on every process where it is not fine on one."""
    if not np.all(multihost_utils.process_allgather(np.array(fine))):
        assert error is not None
        raise error


def require_same(tree, what: str) -> None:
    """Raises ConfigError on every process where one holds another tree of arrays and numbers."""
    if jax.process_count() > 1:
        mark = np.frombuffer(bytes.fromhex(checkpoint.digest(tree)), np.uint8)
        marks = multihost_utils.process_allgather(mark)
        others = np.flatnonzero((marks != marks[0]).any(axis=1)).tolist()
        if others:
            raise ConfigError(f"processes {others} differ from process 0 in {what}")


def agreed(number: int) -> int:
    """Process 0's: what depends on a machine may not differ between those of one run."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))
