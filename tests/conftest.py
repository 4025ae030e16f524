"""Strictness: what is sloppy but silent elsewhere is an error in the tests."""

import gc
import os
import sys

# Tests run on the CPU unless JAX_PLATFORMS says otherwise: several workers would fight over a GPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

# Tracing makes millions of objects that stay: looking through them for garbage is a sixth of the time.
gc.set_threshold(200_000, 20, 100)
# Before the backend starts, hence at import. 8 devices cost next to nothing: they share the cores.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
# Tiny arrays: nearly all time is compilation, and LLVM's optimiser is three quarters of that.
jax.config.update("jax_disable_most_optimizations", True)
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of child processes
# And half of the rest: what MLIR does to each fusion. Then a tenth: a program in one part, because
# the cores are taken by the other workers. Child processes inherit the flags.
os.environ["XLA_FLAGS"] = " ".join([
    os.environ.get("XLA_FLAGS", ""),
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
])  # fmt: skip


def pytest_configure(config):
    if not hasattr(config, "cache"):  # -p no:cacheprovider
        return
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax-compilations")))
    # small programs too: another worker, and `make test-peers` after `make test`, want the same
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # another worker may be writing the entry that this one reads; it is then compiled again
    config.addinivalue_line(
        "filterwarnings", "ignore:Error reading persistent compilation cache entry"
    )


def pytest_sessionfinish():
    """A worker that takes long to end is killed, and what it covered would be lost with it."""
    coverage = sys.modules.get("coverage")
    measured = coverage and coverage.Coverage.current()
    if measured:
        measured.save()


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """After a module: forgets what was compiled, where that is much."""
    from metasg_jax.programs.device import forget_many_programs  # once all above is set

    yield
    forget_many_programs()


@pytest.fixture
def key():
    return jax.random.key(0)
