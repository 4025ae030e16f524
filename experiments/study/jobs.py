"""Commands side by side, a pinned process a core, each with a log."""

import os
import queue
import shutil
import subprocess
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rich.console import Console


class Job(NamedTuple):
    """A command.

    Attributes:
        title: for the eye.
        argv: what is run.
        log: what it prints is appended here.
    """

    title: str
    argv: list[str]
    log: Path


def run_jobs(jobs: Iterable[Job], workers: int, console: Console) -> None:
    """Runs all jobs, ``workers`` at a time.

    Raises:
        SystemExit: naming the log of one that failed; those that run go on to their end.
    """
    cores: queue.Queue = queue.Queue()
    for core in range(workers):
        cores.put(core)

    def one(job: Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        core, begin = cores.get(), time.perf_counter()
        try:
            with job.log.open("a") as file:
                status = subprocess.run([*pinned(core), *job.argv], stdout=file, stderr=file)
        finally:
            cores.put(core)
        if status.returncode:
            raise SystemExit(f"{job.title}: failed, see the end of {job.log}")
        console.print(f"{job.title}: {time.perf_counter() - begin:.0f} s")

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, jobs))


def pinned(worker: int) -> list[str]:
    """A run a core, where that can be said: products are too small to be shared between cores."""
    if not shutil.which("taskset") or not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    return ["taskset", "-c", str(cores[worker % len(cores)])]
