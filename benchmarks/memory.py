"""Prints what a meta-step was expected to need, and what it needed, as a line of JSON.

    python -m benchmarks.memory SIZE

In a process of its own: memory that was touched once stays with a process.
"""

import gc
import json
import re
import sys
from pathlib import Path

import jax

from benchmarks import worlds
from metasg_jax.config import FLConfig, GameConfig, MetaConfig
from metasg_jax.game.make import make_game
from metasg_jax.learning import init_state, meta_sl_step
from metasg_jax.programs import budget

# hidden units, clients sampled, rollouts in all, rollouts at once (0: all)
SIZES = {
    "toy": ((8,), 5, 2, 0),
    "small": ((128,), 10, 16, 0),
    "medium": ((1024,), 50, 2, 0),
    "large": ((2048,), 200, 2, 1),
}


def main(size: str) -> None:
    """Plays one meta-step against IPM and a backdoor, two rounds long."""
    hidden, sampled, rollouts, at_once = SIZES[size]
    config = GameConfig(
        hidden=hidden, types=("none", "ipm@0.2", "bfl@0.2"), num_root=100, num_validation=100
    )
    fl = FLConfig(num_clients=2 * sampled, num_sampled=sampled, batch_size=32, horizon=2)
    game = make_game(config, fl, worlds.dataset(6000, 100))
    meta = MetaConfig(group_size=rollouts, adapt_steps=1, rollouts_at_once=at_once)
    state, key = init_state(jax.random.key(0), game, meta), jax.random.key(1)
    step = meta_sl_step.lower(key, state, game, meta).compile()
    expected = budget.memory(game, meta)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is the compiler's
    before = _kilobytes("VmRSS")
    jax.block_until_ready(step(key, state, game, meta))
    used = 1024 * (_kilobytes("VmHWM") - before) + expected.data
    facts = {"expected": expected.total, "used": used, "parameters": game.model.num_params}
    print(json.dumps({"facts": facts}))


def _kilobytes(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


if __name__ == "__main__":
    main(sys.argv[1])
