"""Client processes that begin with their imports done.

Flower starts the command ``flwr-clientapp`` for each message, and most of what it computes are
imports. Where the directory of :func:`command` stands first in PATH, that command asks one process,
which has imported everything, to fork: a client is still a process of its own in each round.

    python -m examples.flower.warm_clients SOCKET MODULE ...
"""

import importlib
import json
import socketserver
import sys
from pathlib import Path

COMMAND = "flwr-clientapp"


def command(directory: Path, socket: Path) -> None:
    """Writes the command that hands its arguments to the process that listens at ``socket``."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / COMMAND
    path.write_text(
        f"#!{sys.executable} -IS\n"
        "import json, socket, sys\n"
        "link = socket.socket(socket.AF_UNIX)\n"
        f"link.connect({str(socket)!r})\n"
        'link.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")\n'
    )
    path.chmod(0o755)


class _Client(socketserver.StreamRequestHandler):
    """One message: the forked process is Flower's own command from here on."""

    def handle(self) -> None:
        from flwr.supernode.cli import flwr_clientapp

        sys.argv = [COMMAND, *json.loads(self.rfile.readline())]
        flwr_clientapp()


class _Clients(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    request_queue_size = 128


def main(socket: str, *modules: str) -> None:
    for module in ("flwr.supernode.cli", *modules):
        importlib.import_module(module)
    with _Clients(socket, _Client) as clients:
        clients.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
