"""Memory that control groups leave, of both versions, as files of a container."""

import pytest

from metasg_jax.programs import device
from metasg_jax.programs.cgroup import memory_left
from metasg_jax.programs.device import free_memory

GIB = 2**30
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


def group(root, place, names, limit, used, given_back=0):
    folder = root / place
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(names, (limit, used), strict=False):
        (folder / name).write_text(f"{text}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {given_back}\n")


def own(root, lines):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)


def test_no_groups_leave_everything(tmp_path):
    assert memory_left(tmp_path) is None
    own(tmp_path, "0::/\nnonsense\n")
    assert memory_left(tmp_path) is None


@pytest.mark.parametrize("seen", ["", "docker/abc"])
def test_version_1(tmp_path, seen):
    """A container sees its own group under its path, or as the first one of the file system."""
    own(tmp_path, "4:memory:/docker/abc\n3:cpuset:/\n")
    group(tmp_path, "sys/fs/cgroup/memory", V1, 2**63 - 4096, 5 * GIB)
    group(tmp_path, f"sys/fs/cgroup/memory/{seen}", V1, 1572864000, GIB, GIB // 2)
    assert memory_left(tmp_path) == 1572864000 - GIB // 2


def test_version_2_the_tightest_of_the_groups_counts(tmp_path):
    own(tmp_path, "0::/a/b\n")
    group(tmp_path, "sys/fs/cgroup/a", V2, 2 * GIB, GIB)
    group(tmp_path, "sys/fs/cgroup/a/b", V2, "max", GIB // 4)
    assert memory_left(tmp_path) == GIB
    group(tmp_path, "sys/fs/cgroup/a/b", V2, GIB // 2, GIB)
    assert memory_left(tmp_path) == 0


def test_the_limit_bounds_what_rollouts_are_fitted_into(monkeypatch):
    before = free_memory()
    monkeypatch.setattr(device, "memory_left", lambda: 1000)
    assert free_memory() == 1000 < before
    monkeypatch.setattr(device, "memory_left", lambda: 2**60)
    assert free_memory() > 1000
