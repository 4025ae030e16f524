"""Prints how long ``meta_sl_step`` of the preset ``cpu`` takes to trace and compile.

    python -m benchmarks.compilation MODEL

Run in a process of its own, because a process keeps what it has compiled.
"""

import dataclasses
import json
import sys
import time

import jax

from benchmarks import worlds
from metasg_jax.game.make import make_game
from metasg_jax.learning import init_state, meta_sl_step
from metasg_jax.presets import PRESETS

MODELS = {
    "mlp": ({}, (28, 28, 1)),
    "resnet18": ({"model": "resnet18", "hidden": (64, 128, 256, 512), "pool": 1}, (32, 32, 3)),
}
"""What of the preset is another, and the images' shape."""


def main(model: str) -> None:
    """Compiles the preset's step with a model for random images; runs nothing."""
    fields, shape = MODELS[model]
    config = PRESETS["cpu"].get_config("mnist")
    data = worlds.dataset(10_000, 2000, shape)
    game = make_game(dataclasses.replace(config.game, **fields), config.fl, data)
    state = init_state(jax.random.key(0), game, config.meta)
    key = jax.block_until_ready(jax.random.key(1))
    begin = time.perf_counter()
    meta_sl_step.lower(key, state, game, config.meta).compile()
    print(json.dumps({"seconds": time.perf_counter() - begin}))


if __name__ == "__main__":
    main(sys.argv[1])
