"""What a meta-step on a mesh sends between devices: from shapes, and in a compiled program.

    python -m benchmarks.collectives

Computed: bytes that one device receives in a meta-step, for meshes that need not exist. Found: the
same in the program that XLA compiles for 8 virtual devices of a CPU, read from its text; there it
has left out what nobody reads.
"""

import functools
import math
import os
import re

import jax
import jax.numpy as jnp

from metasg_jax.config import FLConfig, GameConfig, MetaConfig
from metasg_jax.data import load
from metasg_jax.fl.axes import AXES
from metasg_jax.game.make import make_game
from metasg_jax.game.rollout import rollout
from metasg_jax.learning import init_state, meta_sl_update
from metasg_jax.learning.state import attacker_player, defender_player
from metasg_jax.programs.mesh import make_mesh, parse_mesh
from metasg_jax.testing import tiny_game

MESHES = ("types=2,rollouts=4", "types=10,rollouts=100", "types=10,rollouts=10,clients=10")
SMALL = "types=2,rollouts=2,clients=2"


def federation(name: str):
    """(game, settings of the learner), by its observation; ``small`` compiles in seconds."""
    if name == "small":
        fl = FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=2, local_lr=0.5)
        config = MetaConfig(group_size=2, num_groups=2, hidden=(4,))
        return tiny_game(("none", "ipm:scale=2@0.25"), fl), config
    trust = dict(rule="client_trust", observation="clients", post_defense="none")
    settings = trust if name == "clients" else {}
    types = (*GameConfig().types, "rl@0.2")
    game = GameConfig(hidden=(64,), num_validation=200, types=types, **settings)
    return make_game(game, FLConfig(horizon=100), load("digits")), MetaConfig(num_groups=100)


def computed(game, config: MetaConfig, sizes: dict[str, int]) -> dict[str, int]:
    """Bytes that a device receives in a meta-step of Algorithm 2, by the axis of the gather.

    Every phase of every type is counted, also those that a type without knobs skips.
    """
    state = jax.eval_shape(lambda: init_state(jax.random.key(0), game, config))

    def episode(key, state):
        players = (defender_player(state, game, config), attacker_player(state, game, config, 0))
        return rollout(key, jax.random.fold_in(key, 1), game, game.prior[0], *players)

    end, played = jax.eval_shape(episode, jax.random.key(0), state)
    batch = config.num_groups * config.group_size
    kinds = len(game.prior)
    phases = config.adapt_steps * (1 + config.adapts_again) + 1
    phases += config.attacker_steps * any(game.prior.adaptive)
    rows = -(-(game.fl.num_sampled + game.needs_root) // sizes["clients"]) * sizes["clients"]
    updates = game.horizon * rows * end.w.size * end.w.dtype.itemsize
    own = kinds // sizes["types"] * phases
    whole = {
        "types": kinds * (batch * _bytes(played) + 2 * _bytes(state.theta))
        + _bytes((state.phi, state.opt_A)),
        "rollouts": own * batch * _bytes(played),
        "clients": own * batch // sizes["rollouts"] * updates,
    }
    return {axis: whole[axis] * (sizes[axis] - 1) // sizes[axis] for axis in AXES}


def _bytes(tree) -> int:
    return sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def found(game, config: MetaConfig, text: str) -> int:
    """Bytes that a device receives in a meta-step, in the program that XLA compiled."""
    state = init_state(jax.random.key(0), game, config)
    step = jax.shard_map(
        functools.partial(meta_sl_update, config=config),
        mesh=make_mesh(parse_mesh(text)), in_specs=jax.P(), out_specs=jax.P(), check_vma=False,
    )  # fmt: skip
    return received(jax.jit(step).lower(jax.random.key(1), state, game).compile().as_text())


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
    """Prints the table of ``docs/devices.md``, then what was compiled beside what is computed."""
    print("| mesh | observation | types | rollouts | clients |")
    print("|---|---|---|---|---|")
    for name in ("statistics", "clients"):
        game, config = federation(name)
        for text in MESHES:
            counts = computed(game, config, parse_mesh(text))
            cells = " | ".join(map(_shown, counts.values()))
            print(f"| `{text}` | `{name}` | {cells} |", flush=True)
    game, config = federation("small")
    counts = computed(game, config, parse_mesh(SMALL))
    print(f"\n{SMALL}: computed {sum(counts.values()):,} bytes, {counts}", flush=True)
    print(f"in what XLA compiled: {found(game, config, SMALL):,} bytes")


def _shown(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    main()
