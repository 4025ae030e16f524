"""Every registered estimate of grad J: one interface, the right expectation, what it shares."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.config import FLConfig, MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.learning import init_state, meta_sl_step, pretrain
from metasg_jax.learning.estimators import ESTIMATORS
from metasg_jax.learning.state import attacker_player, defender_player
from metasg_jax.testing import probe_game, tiny_game

GAME = probe_game((0.5,), (0.3,), (True,), horizon=4)
CONFIG = MetaConfig(group_size=4, num_groups=2, hidden=(), discount=0.8, perturbation=0.02)
STATE = init_state(jax.random.key(0), GAME, CONFIG)

# credit is for games that decide about each client: test_credit.py
every_gradient = pytest.mark.parametrize("name", [n for n in ESTIMATORS if n != "credit"])


def estimate(name, key, leads=True, game=GAME, state=STATE, config=CONFIG):
    players = defender_player(state, game, config), attacker_player(state, game, config, 0)
    return ESTIMATORS[name](key, game, game.prior[0], *players, jnp.asarray(leads), config)


def exact(aim):
    """Gradient of sum_t 0.8^(t-1) E -(tanh(raw) - aim)^2 in the bias and the log deviation."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    nodes = jnp.asarray(nodes, jnp.float32)
    weights = jnp.asarray(weights / weights.sum(), jnp.float32)

    def objective(bias, log_std):
        action = jnp.tanh(bias + jnp.exp(log_std) * nodes)
        return (weights @ -((action - aim) ** 2)) * (1 + 0.8 + 0.64 + 0.512)

    return jax.grad(objective, argnums=(0, 1))(0.0, jnp.log(0.5))


@every_gradient
@pytest.mark.parametrize("leads", [True, False])
def test_expectation(name, leads):
    keys = jax.random.split(jax.random.key(1), 8000)
    theta, phi, _ = jax.jit(jax.vmap(lambda k: estimate(name, k, leads)))(keys)
    moved, still = (theta, phi) if leads else (phi, theta)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(still))
    # both see a constant, so the kernel's derivative is the bias's times what is seen
    want = exact(0.5 if leads else 0.3)
    for got, value in zip((moved["mean"]["Dense_0"]["bias"], moved["log_std"]), want, strict=True):
        sigma = got.std() / np.sqrt(got.size)
        assert abs(got.mean() - value) < 4.5 * sigma + 2e-3  # evolution smooths a little
        assert sigma < 0.2 * abs(value) + 1e-3


@every_gradient
def test_episodes_have_the_shape_of_the_batch(name):
    _, _, played = estimate(name, jax.random.key(1))
    assert played.defender.reward.shape == (2, 4, 4)
    assert played.defender.obs.shape == (2, 4, 4, 1)


@pytest.mark.slow
@every_gradient
@pytest.mark.parametrize("at_once", [1, 4])
def test_parts_change_nothing(name, at_once):
    whole = estimate(name, jax.random.key(1))
    parts = estimate(name, jax.random.key(1), config=CONFIG.replace(rollouts_at_once=at_once))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@every_gradient
def test_the_learner_takes_it(name):
    config = CONFIG.replace(gradient=name, defender_lr=0.05, attacker_lr=0.05, normalize=False)
    state, info = pretrain(
        jax.random.key(2), init_state(jax.random.key(0), GAME, config), GAME, config, 60
    )
    greedy = defender_player(state, GAME, config, greedy=True)
    action, _, _ = greedy.act(jax.random.key(0), jnp.array([0.5]))
    assert abs(float(action[0]) - 0.5) < 0.15
    follower = attacker_player(state, GAME, config, 0, greedy=True)
    assert abs(float(follower.act(jax.random.key(0), jnp.zeros(1))[0][0]) - 0.3) < 0.15


@pytest.mark.slow
def test_antithetic_pairs_share_their_random_numbers():
    """Where the parameters don't matter the two returns of a pair are equal, bit by bit."""
    game = tiny_game(("none",), FL.replace(horizon=2), rule="mean", post_defense="none")
    state = init_state(jax.random.key(0), game, CONFIG)
    theta, _, played = estimate("evolution", jax.random.key(1), game=game, state=state)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(theta))
    pairs = np.asarray(played.defender.reward).reshape(4, 2, 2)
    np.testing.assert_array_equal(pairs[:, 0], pairs[:, 1])
    assert len(np.unique(pairs[:, 0, 0])) == 4


FL = FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=4, local_lr=0.5)


@pytest.fixture(scope="module")
def derivative():
    """(bias, window) -> (derivative in the bias, discounted return) of one episode of the FL game."""
    game = tiny_game(("ipm:scale=2@0.25",), FL)
    config = MetaConfig(group_size=1, num_groups=1, baseline="none", hidden=(), init_std=0.3)
    state = init_state(jax.random.key(0), game, config)

    @functools.partial(jax.jit, static_argnums=1)
    def run(bias, window):
        theta = jax.tree.map(jnp.asarray, state.theta)
        theta["mean"]["Dense_0"]["bias"] = bias
        theta, _, played = estimate(
            "pathwise",
            jax.random.key(1),
            game=game,
            state=state.replace(theta=theta),
            config=config.replace(window=window),
        )
        return theta["mean"]["Dense_0"]["bias"], played.defender.reward

    return lambda bias, window=0: jax.tree.map(np.asarray, run(bias, window))


@pytest.mark.slow
def test_pathwise_is_the_derivative_of_the_simulator(derivative):
    """Against finite differences on the same draws; the step is short, for ReLU has kinks."""
    slopes = []
    for knob in range(3):
        bias = np.zeros(3, np.float32)
        bias[knob] = 1e-3
        up, down = (
            derivative(sign * bias)[1].reshape(-1) @ 0.99 ** np.arange(4) for sign in (1, -1)
        )
        slopes.append((up - down) / 2e-3)
    np.testing.assert_allclose(derivative(np.zeros(3))[0], slopes, rtol=0.05, atol=3e-4)


@pytest.mark.slow
def test_a_coordinate_in_which_all_rows_agree_has_a_derivative():
    """Weights of a pixel that is always 0 never move: their deviation is 0 in every round."""
    game = tiny_game(types=("alie:z=1.5@0.5", "lmp:z=2@0.5"))
    dark = game.data.replace(images=game.data.images.at[:, 0].set(0))
    game = game.replace(data=dark)
    config = MetaConfig(gradient="pathwise", group_size=2, hidden=())
    state = init_state(jax.random.key(0), game, config)
    for i in range(2):
        players = defender_player(state, game, config), attacker_player(state, game, config, i)
        theta, _, _ = ESTIMATORS["pathwise"](
            jax.random.key(1), game, game.prior[i], *players, jnp.asarray(True), config
        )
        leaves = jax.tree.leaves(theta)
        assert all(np.isfinite(leaf).all() for leaf in leaves)
        assert any((leaf != 0).any() for leaf in leaves)


@pytest.mark.slow
def test_a_short_window_forgets(derivative):
    whole, short = (derivative(np.zeros(3), window)[0] for window in (0, 1))
    assert np.abs(short - whole).max() > 1e-3


@pytest.mark.slow
def test_a_window_of_the_whole_episode_is_no_window():
    whole, long, half = (
        estimate("pathwise", jax.random.key(1), config=CONFIG.replace(window=window))[0]
        for window in (0, 4, 2)
    )
    for a, b, c in zip(*map(jax.tree.leaves, (whole, long, half)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.shape == c.shape and np.isfinite(c).all()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        (dict(gradient="evolution", group_size=3, num_groups=1), "gradient"),
        (dict(gradient="pathwise", outer="debiased"), "gradient"),
        (dict(gradient="evolution", epochs=2, ratio_clip=0.2), "gradient"),
        (dict(baseline="leave_one_out", group_size=1, num_groups=1), "baseline"),
        (dict(outer="debiased", epochs=2, ratio_clip=0.2), "epochs"),
        (dict(window=-1), "window"),
        (dict(perturbation=0.0), "perturbation"),
    ],
)
def test_what_does_not_go_together_is_named(settings, field):
    with pytest.raises(ConfigError, match=field):
        init_state(jax.random.key(0), GAME, CONFIG.replace(**settings))


@pytest.mark.slow
def test_a_rejected_row_leaves_the_pathwise_gradient_finite():
    """Its squared norm overflows: masked in the value, it made the whole policy NaN."""
    fl = FLConfig(num_clients=8, num_sampled=4, batch_size=8, horizon=3)
    game = tiny_game(("gaussian:sigma=1e25@0.25",), fl)
    config = MetaConfig(group_size=2, gradient="pathwise")
    state = init_state(jax.random.key(0), game, config)
    _, info = meta_sl_step(jax.random.key(1), state, game, config)
    assert info["finite"] and info["update_norm"] > 0
