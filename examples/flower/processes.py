"""A SuperLink and its SuperNodes as processes of this machine; they end with the block."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from examples.flower import warm_clients
from metasg_jax.errors import ConfigError

HOST = "127.0.0.1"
_PATIENCE = 60.0
"""Seconds that the SuperLink, and the process of clients, have to begin listening."""


def require_free(ports: Sequence[int]) -> None:
    """Raises ConfigError for a port that somebody listens on."""
    for port in ports:
        if not 1024 <= port <= 65535:
            raise ConfigError(f"port {port}: from 1024 to 65535; --port names another first one")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise ConfigError(
                    f"port {port} of {HOST} is in use ({error.strerror}): --port names another "
                    "first one"
                ) from None


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGINT leave the block as an exception would, so that nothing stays behind.

    A shell's background job ignores SIGINT, and SIGTERM would end this process alone.
    """

    def leave(number, frame):
        raise SystemExit(f"ended by signal {number}")

    before = {sign: signal.signal(sign, leave) for sign in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


@contextlib.contextmanager
def federation(
    home: Path, port: int, node_configs: Sequence[str], imports: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a SuperLink at ``port`` and a SuperNode for each config at the ports after it.

    Args:
        home: for logs, the SuperLink's address and all that Flower writes; made where missing.
        port: of the SuperLink on 127.0.0.1.
        node_configs: each as ``flower-supernode --node-config`` takes it.
        imports: modules that a client's process begins with; none starts them as Flower does.

    Yields:
        The SuperLink's process.

    Raises:
        ConfigError: for a port in use.
        RuntimeError: where the SuperLink does not come up; names its log.
    """
    ports = [port + i for i in range(len(node_configs) + 1)]
    require_free(ports)
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{HOST}:{port}"\n'
        "insecure = true\n"
    )
    started: list[subprocess.Popen[bytes]] = []
    try:
        link = ["flower-superlink", "--insecure", "--host", HOST, "--port", str(port)]
        started.append(_start(link, home, "superlink"))
        (home / "bin" / warm_clients.COMMAND).unlink(missing_ok=True)  # of another federation
        if imports:
            started.append(fork_clients(home, imports))
        _wait_for(
            started[0], lambda: _listens(port),
            f"the SuperLink did not come up at {HOST}:{port}: see {home / 'superlink.log'}",
        )  # fmt: skip
        for i, config in enumerate(node_configs):
            node = ["flower-supernode", "--insecure", "--superlink", f"{HOST}:{port}"]
            node += ["--host", HOST, "--port", str(ports[i + 1]), "--node-config", config]
            started.append(_start(node, home, f"supernode-{i}"))
        yield started[0]
    finally:
        _stop(started)


def environment(home: Path) -> dict[str, str]:
    """The environment of all processes.

    It installs nothing and tells nobody; each has one core, and programs are compiled once.
    """
    first = (str(home.resolve() / "bin"), str(Path(sys.executable).parent))
    return os.environ | {
        "PATH": os.pathsep.join((*first, os.environ.get("PATH", ""))),
        "FLWR_HOME": str(home.resolve()),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
        "JAX_COMPILATION_CACHE_DIR": str(home.resolve() / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "OMP_NUM_THREADS": "1",
    }


def submit(app: Path, home: Path, config: Path) -> None:
    """``flwr run``: hands the app to the SuperLink.

    Raises:
        RuntimeError: with what Flower said, where it does not take it.
    """
    command = ["flwr", "run", str(app), "here", "--run-config", str(config)]
    done = subprocess.run(
        command, env=environment(home), capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise RuntimeError(f"flwr run: {(done.stdout + done.stderr).strip()[-2000:]}")


def fork_clients(home: Path, imports: Sequence[str]) -> subprocess.Popen[bytes]:
    """Starts the process that clients are forked from."""
    socket_path = home.resolve() / "clients"
    socket_path.unlink(missing_ok=True)
    warm_clients.command(home / "bin", socket_path)
    command = [sys.executable, "-m", warm_clients.__name__, str(socket_path), *imports]
    process = _start(command, home, "clients")
    _wait_for(process, socket_path.exists, f"clients can't be started: see {home / 'clients.log'}")
    return process


def _start(command: list[str], home: Path, name: str) -> subprocess.Popen[bytes]:
    with (home / f"{name}.log").open("wb") as log:
        # a session of its own, so that the processes that it starts can be ended with it
        return subprocess.Popen(
            command, stdout=log, stderr=log, env=environment(home), start_new_session=True
        )


def _wait_for(process: subprocess.Popen[bytes], ready: Callable[[], bool], otherwise: str) -> None:
    """Ends a process that is not ready in time, and says so."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and process.poll() is None:
        if ready():
            return
        time.sleep(0.1)
    _stop([process])
    raise RuntimeError(otherwise)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
        return True
    return False


def _stop(started: list[subprocess.Popen[bytes]]) -> None:
    """Asks each process and its children to end, then makes them."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
        until = time.monotonic() + 10
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, until - time.monotonic()))
