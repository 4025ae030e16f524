"""One of two processes that pre-train together: ``python -m tests.programs.play_on_mesh DIR``."""

import sys
from pathlib import Path

import jax
import numpy as np

from metasg_jax import checkpoint
from metasg_jax.config import RunConfig
from metasg_jax.errors import ConfigError
from metasg_jax.learning import init_state
from metasg_jax.programs.mesh import make_mesh, parse_mesh, pretrain_on, whole
from metasg_jax.programs.processes import agreed, held, join, require_same


def main(out: Path) -> None:
    """Trains, saves, checks what the processes agree on, and prints the digest of the state."""
    jax.config.update("jax_num_cpu_devices", 2)
    join(within=120)
    from tests.programs.test_mesh import CONFIG, GAME  # arrays: JAX's backend starts

    mesh = make_mesh(parse_mesh("types=2,rollouts=2"))
    assert len(jax.devices()) == 4 and len(jax.local_devices()) == 2
    with held(out) as own:
        assert (own == out) == (jax.process_index() == 0)
        state = init_state(jax.random.key(0), GAME, CONFIG)
        game = whole(GAME, mesh)
        state, _ = pretrain_on(mesh)(jax.random.key(1), state, game, CONFIG, 2)
        checkpoint.save(out / "checkpoints", 2, state, RunConfig(meta=CONFIG))
        again = checkpoint.load(out / "checkpoints", state, RunConfig(meta=CONFIG))
        assert checkpoint.digest(again) == checkpoint.digest(state)
    assert agreed(7 + jax.process_index()) == 7
    try:
        require_same(np.array(jax.process_index()), "a number")
    except ConfigError as error:
        print(error)
    print("digest", checkpoint.digest(state))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
