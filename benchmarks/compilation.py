"""Prints how long ``meta_sl_step`` of a preset takes to trace and compile in this process.

Run in a process of its own, because a process keeps what it has compiled.
"""

import json
import sys
import time

import jax

from benchmarks import worlds
from metasg_jax.game.make import make_game
from metasg_jax.learning import init_state, meta_sl_step
from metasg_jax.presets import PRESETS


def main(preset: str) -> None:
    """Compiles the preset's step for random images of MNIST's shape; runs nothing."""
    config = PRESETS[preset].get_config("mnist")
    game = make_game(config.game, config.fl, worlds.dataset(10_000, 2000))
    state = init_state(jax.random.key(0), game, config.meta)
    key = jax.block_until_ready(jax.random.key(1))
    begin = time.perf_counter()
    meta_sl_step.lower(key, state, game, config.meta).compile()
    print(json.dumps({"seconds": time.perf_counter() - begin}))


if __name__ == "__main__":
    main(sys.argv[1])
