"""``python -m tests.strict``: :mod:`tests.strict.play` under each switch, in a process of its own.

A switch of JAX holds for a process, and changes what each program of it is.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

# the longest first
SWITCHES = {
    "JAX_DISABLE_JIT": "1",
    "JAX_ENABLE_X64": "1",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_DEBUG_NANS": "1",
}
# cheap to compile, as in tests/conftest.py
CHEAP = {
    "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
}


def play(switch: str) -> bool:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tests.strict.play"],
        env=os.environ | CHEAP | {switch: SWITCHES[switch]}, capture_output=True, text=True,
    )  # fmt: skip
    says = "passed" if done.returncode == 0 else f"FAILED\n{done.stdout}{done.stderr[-4000:]}"
    print(f"{switch}={SWITCHES[switch]}: {says} ({time.perf_counter() - start:.0f} s)", flush=True)
    return done.returncode == 0


def main() -> int:
    chosen = sys.argv[1:] or list(SWITCHES)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return 0 if all(list(pool.map(play, chosen))) else 1


if __name__ == "__main__":
    sys.exit(main())
