"""Files that are there whole or not at all, and lines that are read back only as they were written.

Whatever a later command reads carries a checksum, and damage is refused by the file's name, which
stays as it is. Only one kind of damage is expected: a last line that was cut off when a run was
killed while it wrote.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from metasg_jax.errors import CheckpointError, ConfigError

CHECK = "check"
"""The key or column of a checksum."""


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that is to be there whole or not at all, whenever a run is killed.

    Args:
        path: of the file; the old one stays until the new one is complete and on the disk.

    Yields:
        A path beside it, of the same suffix.

    Raises:
        CheckpointError: where it can't be written; the old file stays.
    """
    part = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise CheckpointError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """So that the new name survives a loss of power; not every system lets one sync a directory."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole, as UTF-8 whatever the locale."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def read_text(path: Path) -> str:
    """The text of a file that this package wrote.

    Raises:
        CheckpointError: where it can't be read, or is not UTF-8.
    """
    return _decoded(path, _read_bytes(path))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror or error}") from None


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is damaged: byte {error.start} is no UTF-8") from None


def sha256(path: Path) -> str:
    """SHA-256 of the file's bytes, as 64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_json(path: Path, tree: dict) -> None:
    """Writes an object as JSON, with a checksum under :data:`CHECK`."""
    tree = {name: value for name, value in tree.items() if name != CHECK}
    write_text(path, json.dumps(tree | {CHECK: _check_of_json(tree)}, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What :func:`write_json` wrote, without the checksum; older files have none.

    Raises:
        CheckpointError: where the file can't be read, is no JSON object, or was changed.
    """
    try:
        tree = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged, or was cut off: {error}") from None
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} is damaged: it holds no JSON object")
    if CHECK in tree and tree.pop(CHECK) != _check_of_json(tree):
        raise CheckpointError(f"{path} is damaged: it is not what was written")
    return tree


def _check_of_json(tree: dict) -> str:
    # a round trip first: tuples are lists in the file
    return checksum([json.dumps(json.loads(json.dumps(tree)), sort_keys=True)])


def checksum(cells: Iterable[str]) -> str:
    """Eight digits that tell strings from others."""
    return f"{zlib.crc32(chr(31).join(cells).encode()):08x}"


def write_lines(path: Path, fields: Sequence[str], rows: Iterable[dict], owner: str = "") -> None:
    """Writes a CSV whole, a checksum at the end of every line.

    Args:
        path: of the file.
        fields: its columns.
        rows: its lines.
        owner: what tells the run from others, part of the checksums: those of another run differ.
    """
    with whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*fields, CHECK])
        writer.writerows(_cells(fields, row, owner) for row in rows)


def add_lines(path: Path, fields: Sequence[str], rows: Iterable[dict], owner: str = "") -> None:
    """Adds rows to a CSV of :func:`write_lines`; they are on the disk at its return.

    Raises:
        CheckpointError: where it can't be written.
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows(_cells(fields, row, owner) for row in rows)
    append_text(path, text.getvalue())


def append_text(path: Path, text: str) -> None:
    """Adds to the end of a file, as UTF-8 without translation; it is on the disk at its return.

    Raises:
        CheckpointError: where it can't be written; a part of the text may be there.
    """
    try:
        with path.open("a", newline="", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # of closing too, which writes again what did not fit
        raise CheckpointError(f"{path} could not be written: {error.strerror or error}") from error


def _cells(fields: Sequence[str], row: dict, owner: str) -> list[str]:
    cells = [str(row[name]) for name in fields]
    return [*cells, checksum([owner, *fields, *cells])]


def whole_lines(path: Path) -> tuple[list[str], str]:
    """(the complete lines of a file, what is left of one that was cut off at its end).

    Raises:
        CheckpointError: where it can't be read.
    """
    whole, newline, rest = _read_bytes(path).rpartition(b"\n")
    text = _decoded(path, whole + newline).replace("\r\n", "\n")
    # a character may have been cut in two
    return text.split("\n")[:-1], rest.decode("utf-8", "replace")


def read_lines(
    path: Path,
    fields: Sequence[str] | None,
    read: Callable[[dict[str, str]], Any] = dict,
    owner: str = "",
) -> list[Any]:
    """The rows of a CSV of :func:`write_lines`, but for a last line that was cut off.

    Args:
        path: of the file.
        fields: that it must have; a file with no others, of an older version, has no checksums.
            None takes what its header says.
        read: row -> what is returned; may raise ValueError.
        owner: as given to :func:`write_lines`.

    Raises:
        CheckpointError: for any other damage.
    """
    lines, _ = whole_lines(path)
    advice = "put it back from a copy, or move it away to begin anew"
    if not lines:
        raise CheckpointError(f"{path} is damaged: its header is missing; {advice}")
    try:
        header, *rows = list(csv.reader(lines, strict=True))
    except csv.Error as error:
        raise CheckpointError(f"{path} is damaged: {error}; {advice}") from None
    checked = bool(header) and header[-1] == CHECK
    names = header[:-1] if checked else header
    if names != list(fields if fields is not None else names) or not (checked or fields):
        raise CheckpointError(f"{path} is damaged: its header is {','.join(header)!r}; {advice}")
    found = []
    for number, cells in enumerate(rows, 2):
        right = len(cells) == len(header)
        if checked:
            right = right and cells[-1] == checksum([owner, *names, *cells[:-1]])
        try:
            if not right:
                raise ValueError("it is not what this run wrote")
            found.append(read(dict(zip(names, cells, strict=False))))
        except ValueError as error:
            raise CheckpointError(
                f"{path} is damaged in line {number}: {error}; {advice}"
            ) from None
    return found


def require_writable(directory: Path, field: str = "out") -> None:
    """Makes a directory and tries to write there, before the work whose result is to be there.

    Raises:
        ConfigError: naming ``field`` and the directory.
    """
    probe = directory / f".writable.{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{field} = {directory}: {reason}; name another by --out") from None
