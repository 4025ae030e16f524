"""``python -m tests.strict``: :mod:`tests.strict.checks` under each switch, in a process of its own.

A switch of JAX holds for a process, and changes what each program of it is.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

# (switches, parts of tests.strict.checks), the longest first. Without jit each operation is played by
# itself, which takes as long as all the rest: in two processes, so that no core waits for it.
JOBS = (
    ({"JAX_DISABLE_JIT": "1"}, ("meta_step",)),
    ({"JAX_DISABLE_JIT": "1"}, ("rules", "attacks")),
    ({"JAX_ENABLE_X64": "1"}, ()),
    ({"JAX_DEBUG_NANS": "1", "JAX_NUMPY_RANK_PROMOTION": "raise"}, ()),
)
# cheap to compile, as in tests/conftest.py
CHEAP = {
    "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
}


def play(job: tuple[dict[str, str], tuple[str, ...]]) -> bool:
    switches, parts = job
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tests.strict.checks", *parts],
        env=os.environ | CHEAP | switches, capture_output=True, text=True,
    )  # fmt: skip
    says = "passed" if done.returncode == 0 else f"FAILED\n{done.stdout}{done.stderr[-4000:]}"
    name = " ".join([*(f"{switch}={value}" for switch, value in switches.items()), *parts])
    print(f"{name}: {says} ({time.perf_counter() - start:.0f} s)", flush=True)
    return done.returncode == 0


def main() -> int:
    chosen = [job for job in JOBS if not sys.argv[1:] or set(sys.argv[1:]) & job[0].keys()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return 0 if all(list(pool.map(play, chosen))) else 1


if __name__ == "__main__":
    sys.exit(main())
