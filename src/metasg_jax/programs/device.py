"""The machine that a program runs on: memory that is free, compiled programs that are kept."""

import gc
import os
from pathlib import Path

import jax

from metasg_jax.data import cache as data_cache
from metasg_jax.errors import DataError
from metasg_jax.programs.cgroup import memory_left


def enable_compilation_cache() -> None:
    """Keeps compiled programs between runs, beside the data cache.

    What the user has set stays. There is none where nothing can be kept, or where what is kept is
    another user's, who could have it run anything.
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    try:
        folder = data_cache.directory(None) / "xla"
        folder.mkdir(parents=True, exist_ok=True)
        mine = not hasattr(os, "getuid") or folder.stat().st_uid in (os.getuid(), 0)
    except (OSError, DataError):
        return
    if not (mine and os.access(folder, os.W_OK)):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


# Each program maps memory, and Linux allows a process some 65,000 mappings; LLVM crashes there.
_MOST_MAPPINGS = 45_000


def forget_many_programs() -> None:
    """Forgets compiled programs where these come near what Linux allows a process to map."""
    try:
        mappings = Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:  # not Linux
        return
    if mappings > _MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


def free_memory() -> int:
    """Bytes that this process's first device has free: on a CPU, of the machine or container."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        table = dict(line.split(":", 1) for line in lines)
        free = int(table["MemAvailable"].split()[0]) * 1024
        left = memory_left()
        return free if left is None else min(free, left)
    except (OSError, KeyError):  # not Linux: of all memory, half may well be taken
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
