"""A mesh of devices: read, checked against a run, made of what there is; meta-steps on it."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from metasg_jax.config import RunConfig
from metasg_jax.config.checks import require
from metasg_jax.errors import ConfigError
from metasg_jax.fl.axes import AXES
from metasg_jax.learning.pretrain import pretrain
from metasg_jax.programs.processes import require_same

_WHOLE = PartitionSpec()


def parse_mesh(text: str) -> dict[str, int]:
    """Devices along each of ``AXES``; an axis that is not named has one.

    Raises:
        ConfigError: for an axis that there is not, or is named twice, or a size that is none.

    Example:
        >>> parse_mesh("types=4,rollouts=2")
        {'types': 4, 'rollouts': 2, 'clients': 1}
    """
    given: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = (each.strip() for each in part.partition("="))
        if name not in AXES or name in given:
            raise ConfigError(f"mesh = {text!r}: {name!r}: each of {', '.join(AXES)} at most once")
        if not size.isdecimal() or int(size) < 1:
            raise ConfigError(f"mesh = {text!r}: {name} = {size!r}: a number of devices, 1 or more")
        given[name] = int(size)
    return {name: given.get(name, 1) for name in AXES}


def check_mesh(sizes: dict[str, int], config: RunConfig) -> None:
    """Whether each device gets as much work as the others, and the run is one that can be shared.

    Args:
        sizes: see :func:`parse_mesh`.
        config: of the run.

    Raises:
        ConfigError: names the axis and the sizes that are allowed.
    """
    meta = config.meta
    if "teach" in config.stages:
        raise ConfigError(
            f"stages = {config.stages}: with a mesh, meta alone: the teacher plays one world after "
            "another, on one device"
        )
    # devices of rollouts play whole pairs where these are what is compared
    batch, what = meta.num_groups * meta.group_size, "meta.num_groups x meta.group_size"
    if meta.gradient == "evolution":
        batch, what = batch // 2, f"the pairs of {what}"
    types = len(config.game.types) + meta.population
    for axis, count, of in (
        ("types", types, "game.types and meta.population"),
        ("rollouts", batch, what),
        ("clients", config.fl.num_sampled, "fl.num_sampled"),
    ):
        allowed = [str(k) for k in range(1, count + 1) if count % k == 0]
        require(
            count % sizes[axis] == 0,
            f"mesh.{axis}",
            sizes[axis],
            f"a divisor of {count} ({of}): {', '.join(allowed)}",
        )
    require(
        meta.gradient != "pathwise" or sizes["clients"] == 1,
        "mesh.clients",
        sizes["clients"],
        "1 with meta.gradient = 'pathwise', whose derivative flows through local training",
    )


def make_mesh(sizes: dict[str, int]) -> Mesh:
    """The mesh of the first devices that JAX has, of all processes that have joined.

    Raises:
        ConfigError: where there are fewer; or more, and another process would get none of them.
    """
    asked, there, processes = math.prod(sizes.values()), jax.devices(), jax.process_count()
    shown = ",".join(f"{name}={size}" for name, size in sizes.items())
    allowed = "at most" if processes == 1 else f"with {processes} processes exactly"
    require(
        asked == len(there) or (asked < len(there) and processes == 1),
        "mesh",
        shown,
        f"{asked} devices are asked for, allowed are {allowed} the {len(there)} that there are",
    )
    return jax.make_mesh(
        tuple(sizes.values()), AXES, (AxisType.Auto,) * len(AXES), devices=there[:asked]
    )


def whole(tree, mesh: Mesh):
    """A tree of arrays, on every device of the mesh.

    Raises:
        ConfigError: where another process of the run has other values.
    """
    require_same(tree, "the game or the state: other settings, images or versions")
    everywhere = NamedSharding(mesh, _WHOLE)

    def put(leaf):
        # a setting is a plain float, and stays one: its type gives way to that of what it meets
        if not hasattr(leaf, "dtype") or getattr(leaf, "sharding", None) == everywhere:
            return leaf
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, everywhere, lambda part: array[part])

    return jax.tree.map(put, tree)


def pretrain_on(mesh: Mesh) -> Callable:
    """:func:`~metasg_jax.learning.pretrain.pretrain` over a mesh: same arguments, keys and results.

    Each device holds the whole state and game, and plays its part of types, rollouts and clients
    (:mod:`metasg_jax.fl.axes`). Results are on one device of this process, so that what is saved
    from them does not know of the mesh. With many processes the game must be :func:`whole`.
    """

    @functools.partial(jax.jit, static_argnames="num_steps")
    def program(bits, state, game, config, num_steps):
        steps = functools.partial(pretrain, num_steps=num_steps)
        # what varies over devices is not tracked through the simulator's loops
        mapped = jax.shard_map(steps, mesh=mesh, in_specs=_WHOLE, out_specs=_WHOLE, check_vma=False)
        return mapped(jax.random.wrap_key_data(bits), state, game, config)

    def run(key, state, game, config, num_steps):
        # a key can't be put on other processes' devices, its bits can
        bits, state = whole((jax.random.key_data(key), state), mesh)
        out = program(bits, state, game, config, num_steps)
        return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), out)

    return run
