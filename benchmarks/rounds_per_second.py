"""FL rounds per second of the plain simulator: MLP 784-128-10, 10 of 100 clients, batch 32.

    python benchmarks/rounds_per_second.py            # the median rule
    python benchmarks/rounds_per_second.py --rule mean --attack ipm@0.2

Prints the median over repetitions, and the floor: the round's matrix products (forward, and the
gradients of the weights and of the hidden layer) at the rate of a 1024 x 1024 product measured in
the same run. Time it on a quiet machine.
"""

import dataclasses
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from metasg_jax.config import FLConfig
from metasg_jax.fl.data import ClientData
from metasg_jax.fl.simulate import simulate, start
from metasg_jax.game.make import make_rule
from metasg_jax.game.types import make_prior, parse_type
from metasg_jax.models import make_model


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is timed."""

    rule: str = "median"
    """A registered rule."""
    attack: str = "none"
    """An attacker type, as in `metasg pretrain --game.types`."""
    hidden: int = 128
    """Width of the hidden layer."""
    batch_size: int = 32
    """B."""
    local_steps: int = 1
    """S."""
    rounds: int = 300
    """Rounds of one repetition."""
    repetitions: int = 7
    """Of which the median is printed."""


def synthetic(num_clients: int, images_each: int, num_root: int) -> ClientData:
    """Random images of MNIST's shape, dealt evenly; contents don't change the time."""
    rng = np.random.default_rng(0)
    count = num_clients * images_each + num_root
    index = np.arange(num_clients * images_each).reshape(num_clients, images_each)
    root = np.resize(np.arange(num_clients * images_each, count), images_each)
    return ClientData(
        images=jnp.asarray(rng.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)),
        labels=jnp.asarray(rng.integers(0, 10, count), jnp.int32),
        index=jnp.asarray(np.concatenate([index, root[None]]), jnp.int32),
        sizes=jnp.asarray([images_each] * num_clients + [num_root], jnp.int32),
    )


def product_rate(size: int = 1024, repetitions: int = 20) -> float:
    """Floating-point operations a second of a square product, median over repetitions."""
    a = jnp.ones((size, size))
    multiply = jax.jit(jnp.matmul)
    multiply(a, a).block_until_ready()
    seconds = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        multiply(a, a).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / statistics.median(seconds)


def main(args: Benchmark) -> None:
    """Times the simulator and the floor in one run and prints both."""
    fl = FLConfig(
        batch_size=args.batch_size, local_steps=args.local_steps, local_lr=0.05, horizon=1
    )
    model = make_model("mlp", (28, 28, 1), 10, (args.hidden,))
    rule = make_rule(args.rule, fl.num_sampled, 0.2)
    trigger = jnp.zeros((28, 28, 1)).at[:3, :3].set(1.0)
    prior = make_prior([parse_type(args.attack, fl.num_clients)], (trigger, trigger), 0)
    squads = () if args.attack == "none" else prior.squads(prior[0])
    data = synthetic(fl.num_clients, 600, 100)
    state = start(jax.random.key(0), model, fl, rule, squads)
    key = jax.random.key(1)

    def play(state):
        return jax.block_until_ready(
            simulate(key, state, model, fl, data, rule, squads, num_rounds=args.rounds)
        )

    begin = time.perf_counter()
    state = play(state)
    compile_seconds = time.perf_counter() - begin
    speeds, rates = [], []
    for _ in range(args.repetitions):
        begin = time.perf_counter()
        state = play(state)
        speeds.append(args.rounds / (time.perf_counter() - begin))
        rates.append(product_rate(repetitions=5))
    rows = fl.num_sampled + rule.needs_root
    images = rows * args.batch_size * args.local_steps
    flops = images * 2 * (2 * 784 * args.hidden + 3 * args.hidden * 10)
    floor = statistics.median(rates) / flops
    speed = statistics.median(speeds)
    print(
        f"jax {jax.__version__} on {jax.devices()[0].platform}, {platform.machine()}; "
        f"MLP 784-{args.hidden}-10, {fl.num_sampled} of {fl.num_clients}, batch {args.batch_size}, "
        f"{args.local_steps} step, {args.rule}, attack {args.attack}"
    )
    print(
        f"{speed:,.0f} rounds/s (min {min(speeds):,.0f}, max {max(speeds):,.0f} of "
        f"{args.repetitions}); floor {floor:,.0f} rounds/s; ratio {floor / speed:.2f}; "
        f"first call {compile_seconds:.1f} s"
    )


if __name__ == "__main__":
    main(tyro.cli(Benchmark, description=__doc__))
