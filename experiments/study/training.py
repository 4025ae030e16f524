"""Pre-trains the defenders by ``metasg pretrain``, a pinned process a core."""

import queue
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from metasg_jax import checkpoint
from metasg_jax.program import load_state
from study.settings import LEARNERS


def folder_of(runs: Path, name: str, seed: int) -> Path:
    """Where a learner's run is kept."""
    return runs / f"{name}-{seed}"


def train(jobs: Iterable[tuple[str, int]], runs: Path, workers: int, console: Console) -> None:
    """Runs (learner, seed) jobs, resuming what was begun and leaving what is done."""
    cores: queue.Queue = queue.Queue()
    for core in range(workers):
        cores.put(core)

    def one(job: tuple[str, int]) -> None:
        name, seed = job
        learner, out = LEARNERS[name], folder_of(runs, name, seed)
        if checkpoint.latest_step(out / "checkpoints") == learner.steps:
            return
        out.mkdir(parents=True, exist_ok=True)
        begin, core = time.perf_counter(), cores.get()
        try:
            with out.with_suffix(".log").open("a") as log:
                subprocess.run(
                    [*pinned(core), *command(name, seed, out)], stdout=log, stderr=log, check=True
                )
        finally:
            cores.put(core)
        console.print(f"trained {name}, seed {seed}: {time.perf_counter() - begin:.0f} s")

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, jobs))


def command(name: str, seed: int, out: Path) -> list[str]:
    """How a learner is pre-trained."""
    learner = LEARNERS[name]
    return [
        sys.executable, "-m", "metasg_jax.cli", "pretrain", "--dataset=mnist", "--preset=cpu",
        f"--steps={learner.steps}", f"--seed={seed}", f"--game.seed={seed}", "--eval-seeds=0",
        f"--out={out}", "--resume", *learner.arguments,
    ]  # fmt: skip


def pinned(core: int) -> list[str]:
    """A run a core, where that can be said: products are too small to be shared between cores."""
    return ["taskset", "-c", str(core)] if shutil.which("taskset") else []


def trained(name: str, seed: int, runs: Path, dataset):
    """(settings, state) of a finished run."""
    checkpoints = folder_of(runs, name, seed) / "checkpoints"
    config = checkpoint.load_config(checkpoints)
    return config, load_state(config, checkpoints, dataset)
