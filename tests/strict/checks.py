"""Every rule, every attack and a meta-step, in a process whose switches of JAX are already set.

``python -m tests.strict.checks [PART ..]`` says nothing if all is well; the switches are those of
:mod:`tests.strict.__main__`.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.aggregators import Median
from metasg_jax.config import FLConfig, MetaConfig
from metasg_jax.learning import init_state, meta_sl_step
from metasg_jax.testing import received, tiny_game
from tests.every_variant import results_of_attacks, results_of_rules
from tests.rounds import honest_round
from tests.worlds import context

# as little as there is: without jit each operation of each round is played by itself
FL = FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=1, local_lr=0.5)
META = MetaConfig(group_size=2, hidden=(4,), attacker_steps=1)


def check(made, name: str) -> None:
    """Nothing is wider than 32 bits, and nothing is NaN."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(made):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue
        where = f"{name}{jax.tree_util.keystr(path)}"
        assert leaf.dtype.itemsize <= 4, f"{where}: {leaf.dtype}"
        assert not np.isnan(leaf).any(), f"{where}: NaN"


def rules() -> None:
    for kind in (np.float32, np.float64) if jax.config.jax_enable_x64 else (np.float32,):
        got = honest_round()
        wide = got.replace(
            updates=kind(got.updates),
            w_global=kind(got.w_global),
            root_update=kind(got.root_update),
        )
        for name, (update, state, _) in jax.jit(results_of_rules)(wide).items():
            assert update.dtype == kind, f"{name}: {update.dtype} of rows of {kind.__name__}"
            assert np.isfinite(update).all(), name
            if kind is np.float32:
                check((update, state), name)


def medians_of_doubles() -> None:
    """By networks of few rows and by a sort of many: in full width, where it is on."""
    if not jax.config.jax_enable_x64:
        return
    rows = np.random.default_rng(0).normal(size=(140, 3))
    for few in (rows[:9], rows):
        got = received(few).replace(updates=jnp.asarray(few))
        np.testing.assert_allclose(Median()(None, (), got)[0], np.median(few, 0), rtol=1e-14)


def attacks() -> None:
    for name, made in jax.jit(results_of_attacks)(context()).items():
        check(made, name)


def meta_step() -> None:
    game = tiny_game(("none", "rl@0.25+brl@0.25"), FL)
    state = init_state(jax.random.key(0), game, META)
    check(state, "state")
    state, info = meta_sl_step(jax.random.key(1), state, game, META)
    check((state, info), "meta_sl_step")
    assert info["finite"]


PARTS = {part.__name__: part for part in (rules, medians_of_doubles, attacks, meta_step)}

if __name__ == "__main__":
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()
