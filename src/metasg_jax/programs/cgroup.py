"""How much memory the control groups of a container leave to this process (Linux)."""

from pathlib import Path, PurePosixPath

# the place of a version, and in it the files with the limit and the use, and the line of
# memory.stat with what the kernel would give back
_V1 = ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
       "total_inactive_file")  # fmt: skip
_V2 = ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
# what version 1 says where there is no limit is a little below 2**63
_NONE = 2**60


def memory_left(root: Path = Path("/")) -> int | None:
    """Bytes below the tightest limit of the process's groups; None where there is none.

    Args:
        root: of the file system, another one in tests.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    left: list[int] = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            left += _below(root, path, *_V2)
        elif "memory" in controllers.split(","):
            left += _below(root, path, *_V1)
    return max(0, min(left)) if left else None


def _below(root: Path, path: str, place: str, limit: str, use: str, given_back: str) -> list[int]:
    """What each group on the way to ``path`` leaves; a container may see but the first of them."""
    group, left = root / place, []
    for part in ("", *(each for each in PurePosixPath(path).parts if each not in ("/", ".."))):
        group = group / part
        most = _number(group / limit)
        used = _number(group / use)
        if most is not None and used is not None and most < _NONE:
            left.append(most - used + _given_back(group / "memory.stat", given_back))
    return left


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # "max", or not there
        return None


def _given_back(path: Path, name: str) -> int:
    try:
        table = dict(line.split() for line in path.read_text(encoding="utf-8").splitlines())
        return int(table[name])
    except (OSError, ValueError, KeyError):
        return 0
