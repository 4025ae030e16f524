"""The population: best responses join, the weakest leave, and they are met again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.config import FLConfig, MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.learning.double_oracle import add_responses
from metasg_jax.learning.meta_sl import meta_sl_step
from metasg_jax.learning.population import admit, empty_population
from metasg_jax.learning.state import init_state
from metasg_jax.testing import tiny_game

GAME = tiny_game(
    ("none", "blended_bfl:fraction=0.9,boost=4@0.5"),
    FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=3, local_lr=0.5),
    rule="client_trust", observation="clients", post_defense="none",
)  # fmt: skip
CONFIG = MetaConfig(population=2, set_hidden=(4, 4), hidden=(3,), group_size=2)


@pytest.fixture(scope="module")
def state():
    return init_state(jax.random.key(0), GAME, CONFIG)


def put(population, value, taken):
    phi = jax.tree.map(lambda leaf: jnp.full(leaf.shape[1:], value), population.phi)
    normalizer = jax.tree.map(lambda leaf: leaf[0], population.normalizer)
    return admit(population, jnp.int32(1), phi, normalizer, jnp.float32(taken), jnp.int32(7))


def test_the_weakest_leaves_and_what_diverged_never_enters(state):
    population = state.population
    assert len(population) == 0 and population.size == 2
    for value, taken, expected in (
        (1.0, 0.5, True), (2.0, 0.9, True), (3.0, 0.4, False), (4.0, 0.7, True),
        (5.0, np.nan, False), (np.nan, 2.0, False),
    ):  # fmt: skip
        population, admitted = put(population, value, taken)
        assert bool(admitted) is expected
    assert len(population) == 2
    np.testing.assert_allclose(sorted(population.taken), [0.7, 0.9])
    assert {float(v) for v in jax.tree.leaves(population.phi)[0].reshape(2, -1)[:, 0]} == {2, 4}
    assert (population.step == 7).all() and (population.index == 1).all()


@pytest.mark.slow
def test_an_empty_population_changes_no_meta_step(state):
    """The prior has all the weight while nobody is there."""
    without = init_state(jax.random.key(0), GAME, CONFIG.replace(population=0))
    a, _ = meta_sl_step(jax.random.key(1), state, GAME, CONFIG)
    b, _ = meta_sl_step(jax.random.key(1), without, GAME, CONFIG.replace(population=0))
    for one, two in zip(jax.tree.leaves(a.theta), jax.tree.leaves(b.theta), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_responses_join_and_are_met_again(state):
    """The found attacker changes what is learned; it stands still itself."""
    found, rows = add_responses(jax.random.key(2), state, GAME, CONFIG, tries=4)
    assert len(found.population) == 1 and [row["admitted"] for row in rows] == [True]
    assert rows[0]["type"] == GAME.prior.names[1] and np.isfinite(rows[0]["earned"])
    met, info = meta_sl_step(jax.random.key(1), found, GAME, CONFIG)
    alone, _ = meta_sl_step(jax.random.key(1), state, GAME, CONFIG)
    apart = [
        float(jnp.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(met.theta), jax.tree.leaves(alone.theta), strict=True)
    ]
    assert max(apart) > 1e-6
    for a, b in zip(
        jax.tree.leaves(met.population), jax.tree.leaves(found.population), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert info["type/return_D"].shape == (2,)


def test_bad_calls_are_named(state):
    with pytest.raises(ConfigError, match="population = 0"):
        add_responses(jax.random.key(0), state.replace(population=None), GAME, CONFIG, tries=2)
    fixed = tiny_game(("none", "ipm@0.5"), rule="client_trust", observation="clients")
    with pytest.raises(ConfigError, match="none has knobs"):
        add_responses(jax.random.key(0), state, fixed, CONFIG, tries=2)


def test_places_are_empty_at_first():
    population = empty_population(3, {"a": jnp.zeros((2,))}, 5)
    assert population.size == 3 and not population.present.any()
    assert population.phi["a"].shape == (3, 2)
