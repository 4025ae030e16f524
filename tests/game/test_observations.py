"""The statistics observation: scale-free, blind to order, unmoved by broken rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.config import FLConfig, GameConfig
from metasg_jax.game import make_game
from metasg_jax.game.observations import (
    OBSERVATIONS,
    InversionObservation,
    ReservoirObservation,
    StatisticsObservation,
)
from metasg_jax.game.observations.inversion import patch_features
from metasg_jax.game.observations.summaries import masked_quantiles, round_statistics
from metasg_jax.models import make_model
from metasg_jax.testing import received, tiny_dataset

MODEL = make_model("mlp", (4, 4, 1), 10, (5,))
FL = FLConfig(num_clients=20, num_sampled=7)
D = MODEL.num_params


_statistics = jax.jit(lambda got: round_statistics(MODEL, got))


def statistics(updates, root, weights=None):
    return _statistics(received(updates, weights, root))


@pytest.fixture(scope="module")
def rows():
    root = jax.random.normal(jax.random.key(0), (D,))
    return root[None] + jax.random.normal(jax.random.key(1), (7, D)), root


def test_scale_free(rows):
    updates, root = rows
    assert jnp.allclose(statistics(updates, root), statistics(50 * updates, 50 * root), atol=1e-4)


def test_order_of_clients_does_not_matter(rows):
    updates, root = rows
    assert jnp.allclose(statistics(updates, root), statistics(updates[::-1], root), atol=1e-4)


def test_no_class_is_special(rows):
    """Renaming the classes changes nothing: triggers of final runs have other targets."""
    updates, root = rows
    order = np.random.default_rng(0).permutation(10)

    def rename(u):
        params = MODEL.unravel(u)
        head = {"kernel": params["head"]["kernel"][:, order], "bias": params["head"]["bias"][order]}
        return MODEL.ravel({**params, "head": head})

    renamed = statistics(jax.vmap(rename)(updates), rename(root))
    assert jnp.allclose(statistics(updates, root), renamed, atol=1e-4)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 1e30])
def test_a_broken_row_is_an_absent_row(rows, bad):
    updates, root = rows
    broken = np.array(updates)
    broken[2] = bad
    absent = statistics(updates, root, np.where(np.arange(7) == 2, 0.0, 1.0))
    assert jnp.allclose(statistics(broken, root), absent, atol=1e-4)


def test_finite_when_nothing_arrived_or_nothing_moved(rows):
    updates, root = rows
    assert jnp.isfinite(statistics(updates, root, jnp.zeros(7))).all()
    assert jnp.isfinite(statistics(0 * updates, 0 * root)).all()


def test_it_sees_an_attack(rows):
    updates, root = rows
    attacked = updates.at[:2].set(-5 * updates.mean(axis=0)[None])
    assert jnp.abs(statistics(updates, root) - statistics(attacked, root)).max() > 0.5


def test_masked_quantiles_against_numpy():
    values = np.random.default_rng(0).normal(size=9).astype(np.float32)
    mask = np.array([1, 1, 0, 1, 1, 0, 1, 1, 0], bool)
    levels = (0.0, 0.1, 0.5, 0.75, 1.0)
    got = masked_quantiles(jnp.asarray(values), jnp.asarray(mask), levels)
    assert np.allclose(got, np.quantile(values[mask], levels), atol=1e-6)
    assert (masked_quantiles(jnp.asarray(values), jnp.zeros(9, bool), levels) == 0).all()


def test_patch_features_by_hand():
    got = patch_features(jnp.array([0.1, 0.9, 0.2, 0.5]))
    np.testing.assert_allclose(got, [0.9, 0.5, 0.35, 0.8], rtol=1e-6)


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_sizes_and_memory_are_as_declared(name, rows):
    updates, root = rows
    observation, got = OBSERVATIONS[name](), received(updates, root_update=root)
    images = jnp.full((9, 4, 4, 1), 0.5), jnp.arange(9) % 10
    memory = observation.init(MODEL, FL, 3)
    step = jax.jit(functools.partial(observation, MODEL))
    for t in range(2):
        obs, after = step(memory, got, images, jnp.float32(0.4), jnp.zeros(3), jnp.float32(t / 9))
        spec = observation.spec(MODEL, FL, 3)
        shapes = (
            [(spec,)] if isinstance(spec, int) else [leaf.shape for leaf in jax.tree.leaves(spec)]
        )
        assert [leaf.shape for leaf in jax.tree.leaves(obs)] == shapes
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(obs))
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, memory)
        memory = after


def test_the_inversion_adds_to_the_statistics(rows):
    """The same numbers first; moving averages of one round are that round."""
    updates, root = rows
    got, images = received(updates, root_update=root), (jnp.zeros((9, 4, 4, 1)), jnp.arange(9))
    numbers = images, jnp.float32(0.4), jnp.zeros(3), jnp.float32(0.0)
    short, long = StatisticsObservation(), InversionObservation()
    first, both = jax.jit(
        lambda *rest: [each(MODEL, each.init(MODEL, FL, 3), *rest)[0] for each in (short, long)]
    )(got, *numbers)
    np.testing.assert_array_equal(both[: len(first)], first)
    np.testing.assert_allclose(both[-8:-4], both[-4:], rtol=1e-5)


@pytest.mark.parametrize(
    ("attack", "sees"),
    [("rl@0.25", True), ("brl:observation=partial@0.25", False),
     ("rl@0.25+brl:observation=partial@0.25", False)],
)  # fmt: skip
def test_what_an_attacker_sees_of_the_state(attack, sees):
    config = GameConfig(types=("none", attack), hidden=(6,), num_root=12, num_validation=30)
    fl = FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=3)
    game = make_game(config, fl, tiny_dataset(side=6))
    state = game.reset(jax.random.key(0), game.prior[1])
    obs = np.asarray(game.observe_attacker(state.replace(round=jnp.int32(1)), game.prior[1]))
    model, (log_norm, share, progress, loss) = obs[:-4], obs[-4:]
    assert share == game.malicious(state, game.prior[1]).mean() and np.isclose(progress, 1 / 3)
    assert (np.abs([*model, log_norm, loss]) > 0).all() == sees
    assert np.any([*model, log_norm, loss]) == sees


def test_the_recurrent_cell_remembers_in_order_and_forgets(rows):
    """Two rounds in the other order leave another state; what is long ago leaves none."""
    updates, root = rows
    observation = ReservoirObservation(units=20)
    one, two = received(updates, root_update=root), received(-3 * updates, root_update=root)
    step = jax.jit(
        lambda memory, got: observation(
            MODEL, memory, got, None, jnp.float32(0.5), jnp.zeros(3), jnp.float32(0.1)
        )
    )

    def after(*rounds):
        memory = observation.init(MODEL, FL, 3)
        for each in rounds:
            _, memory = step(memory, each)
        return memory[0]

    assert jnp.abs(after(one, two, one) - after(two, one, one)).max() > 1e-3
    later = [one] * 150
    np.testing.assert_allclose(after(one, *later), after(two, *later), atol=1e-4)
    obs, _ = step(observation.init(MODEL, FL, 3), one)
    assert obs.shape == (observation.spec(MODEL, FL, 3),)
    radius = np.abs(np.linalg.eigvals(np.asarray(observation.weights()[0]))).max()
    np.testing.assert_allclose(radius, 0.9, rtol=1e-4)
