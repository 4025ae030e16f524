"""What a decision about each client costs a round, on the game card's shapes.

``python experiments/trust_cost.py`` times the parts interleaved, on a quiet machine, and writes the
medians in milliseconds to ``docs/results/trust/cost.json``.
"""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from trust import OUT, federation

from metasg_jax import load_defender
from metasg_jax.aggregators import Mean
from metasg_jax.data import load
from metasg_jax.evaluation.judge import trust_game
from metasg_jax.evaluation.worlds import world
from metasg_jax.features.base import ServerData
from metasg_jax.game.observations import server_data

REPEATS = 300


def main() -> None:
    """Times a round's training, the mean, and the defender with and without root images."""
    config = trust_game(federation())
    game = world(config, load(config.game.dataset), 0)
    state = game.reset(jax.random.key(0), game.prior[0])
    nothing = jnp.zeros((game.attacker_action_size,))
    train = jax.jit(lambda key: game.attack(key, state, game.prior[0], nothing)[0])
    received = jax.block_until_ready(train(jax.random.key(1)))
    defender = load_defender("v1")
    begun = defender.init(game.model.unravel(state.w))
    server = server_data(game.model, (game.root_x, game.root_y))
    blind = ServerData(None, None, server.layout)
    mean = jax.jit(lambda r: Mean()(None, (), r)[0])
    cases = {
        "ten clients' training": lambda: train(jax.random.key(1)),
        "mean": lambda: mean(received),
        "defender": lambda: defender.step(begun, received, server=server),
        "defender without root images": lambda: defender.step(
            begun, received.replace(root_update=None), server=blind
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        jax.block_until_ready(case())
    for _ in range(REPEATS):
        for name, case in cases.items():
            begin = time.perf_counter()
            jax.block_until_ready(case())
            times[name].append(1e3 * (time.perf_counter() - begin))
    medians = {name: round(float(np.median(values)), 3) for name, values in times.items()}
    print(json.dumps(medians, indent=1))
    (OUT / "cost.json").write_text(json.dumps(medians, indent=1) + "\n")


if __name__ == "__main__":
    main()
