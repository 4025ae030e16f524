"""``metasg doctor``."""

import dataclasses
import importlib.metadata
import os
import platform
from pathlib import Path

import tyro
from rich.console import Console

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "safetensors")


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Show devices, versions, caches and data sets, and what to do about what is missing."""


def run(argv: list[str], console: Console) -> int:
    """The command; returns the exit status: 1 where something has to be done."""
    tyro.cli(Doctor, args=argv, prog="metasg doctor")
    from metasg_jax.evaluation.tables import rich_table

    rows, missing = [], []
    for look in (_versions, _devices, _caches, _defenders):
        found, advice = look()
        rows += found
        missing += advice
    console.print(rich_table("what is here", ["part", "found"], rows, numbers=False))
    for each in missing:
        console.print(f"- {each}")
    if not missing:
        console.print("nothing is missing")
    return 1 if missing else 0


def _versions():
    """(rows, advice), as of the other functions."""
    rows = [["python", platform.python_version()]]
    rows += [[name, importlib.metadata.version(name)] for name in _PACKAGES]
    return rows, []


def _devices():
    import jax

    from metasg_jax.programs.device import free_memory

    try:
        devices = jax.devices()
    except RuntimeError as error:  # JAX_PLATFORMS names one that is not there
        return [["devices", "none"]], [f"devices: {error}"]
    shown = ", ".join(f"{d.platform} {d.device_kind}" for d in devices)
    rows = [["devices", shown], ["cores", str(os.cpu_count())]]
    rows.append(["free memory", f"{free_memory() / 2**30:.1f} GiB"])
    advice = []
    if os.path.exists("/dev/nvidia0") and devices[0].platform == "cpu":
        advice.append("a GPU is there, but jax has no CUDA: pip install 'jax[cuda12]'")
    return rows, advice


def _caches():
    import jax

    from metasg_jax.data import cache
    from metasg_jax.errors import DataError
    from metasg_jax.programs.device import enable_compilation_cache

    try:
        folder = cache.directory(None)
    except DataError as error:
        return [["cache", "none"]], [f"cache: {error}"]
    enable_compilation_cache()
    compiled = getattr(jax.config, "jax_compilation_cache_dir", None)
    rows, advice = _data_sets(folder)
    if compiled is None:
        advice.append(
            f"compiled programs can't be kept in {folder}: each run compiles anew; set "
            "METASG_CACHE_DIR to a place of your own"
        )
    rows = [["cache", str(folder)], ["compiled programs", str(compiled or "not kept")], *rows]
    return rows, advice


def _data_sets(folder: Path):
    from metasg_jax.data import DATASETS, cache

    rows, advice = [], []
    for name, expected in DATASETS.items():
        if name == "digits":
            rows.append([name, "embedded"])
            continue
        found, damage = cache.read(name, folder, expected.sha256)
        rows.append([name, "ready" if found else damage or "not fetched"])
        if damage:
            advice.append(f"{name}: {damage}; `metasg data --dataset {name}` makes it again")
        elif not found:
            rows[-1][1] += f"; `metasg data --dataset {name}`, with --source mirror where needed"
    return rows, advice


def _defenders():
    from metasg_jax.defender.files import find, read_defender, shipped
    from metasg_jax.errors import CheckpointError

    rows, advice = [], []
    for name in shipped():
        try:
            read_defender(find(name))
            rows.append([f"defender {name}", "ready"])
        except CheckpointError as error:
            rows.append([f"defender {name}", "not usable"])
            advice.append(f"{error}: install the package anew")
    return rows, advice
