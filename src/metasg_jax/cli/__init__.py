"""The command line: ``metasg COMMAND``, where ``metasg --help`` lists the commands.

A file a command: its arguments as a dataclass, and what runs it.
"""

import io
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from rich.console import Console

from metasg_jax.cli import (
    adapt,
    attack,
    certify,
    data,
    defenders,
    doctor,
    evaluate,
    exploit,
    list,
    pretrain,
    simulate,
    sweep,
)
from metasg_jax.cli.list import first_line
from metasg_jax.cli.pretrain import parse_pretrain
from metasg_jax.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    JoinError,
    NonFinitePolicyError,
    UnknownNameError,
)
from metasg_jax.registry import unknown_name

_ERRORS = (
    ConfigError, DataError, CheckpointError, JoinError, NonFinitePolicyError, UnknownNameError,
)  # fmt: skip
_FLAG, _AGAIN, _NOTHING = "go on with --resume", "run it again to go on", "nothing was kept"


class Command(NamedTuple):
    """A command.

    Attributes:
        arguments: its dataclass.
        run: (arguments after its name, console) -> exit status.
        stopped: what is said when it is interrupted.
    """

    arguments: type
    run: Callable[..., int]
    stopped: str = _NOTHING


COMMANDS = {
    "pretrain": Command(pretrain.Pretrain, pretrain.run, _FLAG),
    "evaluate": Command(evaluate.Evaluate, evaluate.run),
    "certify": Command(certify.Certify, certify.run, _AGAIN),
    "simulate": Command(simulate.Simulate, simulate.run_simulate),
    "matrix": Command(simulate.Matrix, simulate.run_matrix, _AGAIN),
    "sweep": Command(sweep.Sweep, sweep.run, _AGAIN),
    "attack": Command(attack.Attack, attack.run, _FLAG),
    "exploit": Command(exploit.Exploit, exploit.run, _AGAIN),
    "adapt": Command(adapt.Adapt, adapt.run, _FLAG),
    "data": Command(data.Data, data.run),
    "defenders": Command(defenders.Defenders, defenders.run),
    "list": Command(list.List, list.run),
    "doctor": Command(doctor.Doctor, doctor.run),
}


def main(argv=None) -> int:
    """Entry point; returns the exit status: 0, 1 for a failure, 2 for unusable arguments.

    Args:
        argv: arguments, by default those of the process.
    """
    _print_anywhere()
    name, *rest = [*(sys.argv[1:] if argv is None else argv)] or [""]
    console = Console(soft_wrap=True)
    if name in ("", "-h", "--help"):
        _usage(console)
        return 0 if name else 2
    try:
        if name not in COMMANDS:
            raise unknown_name("command", name, COMMANDS)
        if any("\0" in argument for argument in rest):
            raise ConfigError("arguments: one holds a null character")
        return COMMANDS[name].run(rest, console)
    except _ERRORS as error:
        _complain(name, str(error))
        return 2 if isinstance(error, (ConfigError, UnknownNameError)) else 1
    except BrokenPipeError:  # who read the output has gone, as in `metasg list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _complain(name, f"{place}{error.strerror or error}")
        return 1
    except MemoryError as error:
        _complain(name, f"not enough memory: {error}" if str(error) else "not enough memory")
        return 1
    except RuntimeError as error:  # JAX's own class is not imported for `metasg --help`
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _complain(name, f"not enough memory: {str(error).splitlines()[0]}")
        return 1
    except KeyboardInterrupt:
        console.print(f"\nstopped; {COMMANDS[name].stopped}")
        return 130


def _complain(name: str, text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(
        f"metasg {name}: {text}", style="red", markup=False, highlight=False
    )


def _print_anywhere() -> None:
    """A character that the terminal's encoding lacks is a question mark, and ends nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _usage(console: Console) -> None:
    console.print("usage: metasg COMMAND [options]; see `metasg COMMAND --help`\n", markup=False)
    for name, command in COMMANDS.items():
        console.print(f"  {name:10s} {first_line(command.arguments)}")


__all__ = ["COMMANDS", "Command", "main", "parse_pretrain"]
