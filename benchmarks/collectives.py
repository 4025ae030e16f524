"""What a meta-step on a mesh sends between devices: by its traced program, and by a compiled one.

    python -m benchmarks.collectives

Computed: every gather of the program as JAX traces it, times the lengths of the loops around it,
for meshes of up to 1,000 devices that need not be there. Found: the same for the program that XLA
compiled for 8 virtual devices of a CPU, read from its text. Bytes are what one device receives in
one meta-step; of two branches the one that sends more counts.
"""

import collections
import functools
import math
import os
import re

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import AbstractMesh, AxisType, Mesh

from metasg_jax.config import FLConfig, GameConfig, MetaConfig
from metasg_jax.data import load
from metasg_jax.fl.axes import AXES
from metasg_jax.game.make import make_game
from metasg_jax.learning import init_state, meta_sl_update
from metasg_jax.programs.mesh import make_mesh, parse_mesh
from metasg_jax.testing import tiny_game

MESHES = (
    "types=2,rollouts=4",
    "types=10,rollouts=100",
    "types=10,rollouts=10,clients=10",
)
SMALL = "types=2,rollouts=2,clients=2"


def federation(name: str):
    """(game, settings of the learner), by its observation; ``small`` compiles in seconds."""
    if name == "small":
        fl = FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=2, local_lr=0.5)
        config = MetaConfig(group_size=2, num_groups=2, hidden=(4,))
        return tiny_game(("none", "ipm:scale=2@0.25"), fl), config
    types = (*GameConfig().types, "rl@0.2")
    trust = dict(rule="client_trust", observation="clients", post_defense="none")
    game = GameConfig(
        hidden=(64,), num_validation=200, types=types, **(trust if name == "clients" else {})
    )
    return make_game(game, FLConfig(horizon=100), load("digits")), MetaConfig(num_groups=100)


def step_on(mesh, config: MetaConfig):
    """A meta-step over a mesh, ``(key, state, game) -> (state, info)``."""
    whole = jax.P()
    step = functools.partial(meta_sl_update, config=config)
    return jax.shard_map(step, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False)


def computed(game, config: MetaConfig, text: str) -> collections.Counter:
    """Bytes that a device receives in a meta-step, by axis, for devices that need not exist."""
    sizes = parse_mesh(text)
    mesh = AbstractMesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    state = jax.eval_shape(lambda: init_state(jax.random.key(0), game, config))
    traced = jax.make_jaxpr(step_on(mesh, config))(jax.random.key(1), state, game)
    return gathered(traced.jaxpr, sizes)


def gathered(jaxpr: Jaxpr, sizes: dict[str, int]) -> collections.Counter:
    """Bytes of the gathers of a traced program, by axis."""
    total: collections.Counter = collections.Counter()
    for equation in jaxpr.eqns:
        inner = [
            gathered(each.jaxpr if isinstance(each, ClosedJaxpr) else each, sizes)
            for each in jax.tree.leaves(
                equation.params, is_leaf=lambda v: isinstance(v, Jaxpr | ClosedJaxpr)
            )
            if isinstance(each, Jaxpr | ClosedJaxpr)
        ]
        if equation.primitive.name == "all_gather":
            (axis,) = equation.params["axis_name"]
            out = equation.outvars[0].aval
            total[axis] += out.size * out.dtype.itemsize * (sizes[axis] - 1) // sizes[axis]
        elif equation.primitive.name == "cond":
            total += max(inner, key=lambda counts: counts.total())
        else:
            for counts in inner:
                for axis, count in counts.items():
                    total[axis] += count * equation.params.get("length", 1)
    return total


def found(game, config: MetaConfig, text: str) -> int:
    """Bytes that a device receives in a meta-step, in the program that XLA compiled."""
    state = init_state(jax.random.key(0), game, config)
    mesh: Mesh = make_mesh(parse_mesh(text))
    step = jax.jit(step_on(mesh, config))
    return received(step.lower(jax.random.key(1), state, game).compile().as_text())


_COLLECTIVE = re.compile(
    r" = (?P<shape>.*?) (?P<kind>all-gather|all-reduce|all-to-all|collective-permute|"
    r"reduce-scatter)(?:-start)?\(.*replica_groups=(?P<groups>\{\{[\d,]*\}|\[\d+,\d+\])"
)
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f64": 8, "s64": 8, "u64": 8}


def received(program: str) -> int:
    """Bytes of the gathers of a compiled program's text, with the trips of its loops.

    Raises:
        ValueError: for a collective that is no gather: none is asked for.
    """
    bodies: dict[str, list[str]] = {}
    name = entry = ""
    for line in program.splitlines():
        if begins := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = begins[2]
            entry = name if begins[1] else entry
        bodies.setdefault(name, []).append(line)

    @functools.cache
    def of(name: str) -> int:
        total = 0
        for line in bodies.get(name, ()):
            if gather := _COLLECTIVE.search(line):
                if gather["kind"] != "all-gather":
                    raise ValueError(f"not a gather: {line.strip()}")
                groups = gather["groups"]
                members = (
                    groups.count(",") + 1 if groups[0] == "{" else int(groups[1:-1].split(",")[1])
                )
                sizes = re.findall(r"(\w+)\[([\d,]*)\]", gather["shape"])
                whole = sum(
                    _BYTES.get(kind, 4) * math.prod(map(int, filter(None, shape.split(","))))
                    for kind, shape in sizes
                )
                total += whole * (members - 1) // members
            branches = re.search(r"branch_computations=\{(.*?)\}", line)
            either = re.findall(r"(?:true|false)_computation=%?([\w.-]+)", line)
            if branches or either:
                names = either or [each.strip(" %") for each in branches[1].split(",")]
                total += max(map(of, names))
            elif body := re.search(r"body=%?([\w.-]+)", line):
                trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
                total += of(body[1]) * (int(trips[1]) if trips else 1)
            elif called := re.search(r"(?:to_apply|calls)=%?([\w.-]+)", line):
                total += of(called[1])
        return total

    return of(entry)


def main() -> None:
    """Prints what ``docs/devices.md`` says: the check on 8 devices, then the table."""
    game, config = federation("small")
    counts = computed(game, config, SMALL)
    print(f"{SMALL}, a small federation: computed {counts.total():,} bytes, {dict(counts)}")
    print(f"in what XLA compiled: {found(game, config, SMALL):,} bytes", flush=True)
    state = init_state(jax.random.key(0), game, config)
    one, many = (
        jax.jit(step)(jax.random.key(1), state, game)
        for step in (
            functools.partial(meta_sl_update, config=config),
            step_on(make_mesh(parse_mesh(SMALL)), config),
        )
    )
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True)
    worst = max(float(np.abs(np.asarray(a, float) - np.asarray(b, float)).max()) for a, b in pairs)
    print(f"largest difference from one device: {worst:.1e}\n", flush=True)
    print("| mesh | devices | observation | types | rollouts | clients |")
    print("|---|---|---|---|---|---|")
    for name in ("statistics", "clients"):
        game, config = federation(name)
        for text in MESHES:
            counts, devices = computed(game, config, text), math.prod(parse_mesh(text).values())
            cells = " | ".join(_shown(counts[axis]) for axis in AXES)
            print(f"| `{text}` | {devices:,} | `{name}` | {cells} |", flush=True)


def _shown(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    main()
