"""The ladder that tells a broken learner from a hard game: known answers, from easy to harder."""

import jax
import jax.numpy as jnp
import pytest

from metasg_jax.config import MetaConfig
from metasg_jax.learning import init_state, meta_rl_update, pretrain
from metasg_jax.learning.state import attacker_player, defender_player
from metasg_jax.testing import probe_game

ADAM = MetaConfig(
    group_size=8,
    num_groups=2,
    adapt_steps=1,
    adapt_lr=0.0,
    attacker_steps=2,
    attacker_lr=0.05,
    estimator="return_to_go",
    optimizer="adam",
    defender_lr=1.0,
    outer_lr=0.03,
    hidden=(8,),
    discount=0.9,
    init_std=0.3,
)


def learn(game, config, steps):
    key_init, key = jax.random.split(jax.random.key(0))
    state = init_state(key_init, game, config)
    return pretrain(key, state, game, config, steps)


def mode(state, game, config, obs):
    player = defender_player(state, game, config, greedy=True)
    return float(player.act(jax.random.key(0), jnp.asarray([obs]))[0][0])


@pytest.mark.parametrize("outer", ["fomaml", "reptile"])
def test_learns_a_constant(outer):
    config = ADAM.replace(outer=outer)
    game = probe_game((0.5,), (0.0,), (False,))
    state, info = learn(game, config, 150)
    assert abs(mode(state, game, config, 0.5) - 0.5) < 0.12
    assert info["return_D"][-10:].mean() > info["return_D"][:10].mean()


def test_reads_its_observation():
    game = probe_game((-0.6, 0.4), (0.0, 0.0), (False, False))
    state, _ = learn(game, ADAM, 250)
    assert mode(state, game, ADAM, -0.6) < -0.35
    assert mode(state, game, ADAM, 0.4) > 0.2


def test_blind_it_finds_the_mean_under_the_prior():
    # the control of the test above: what can't be seen can't be used
    game = probe_game((-0.6, 0.4), (0.0, 0.0), (False, False), (0.25, 0.75), revealed=False)
    state, _ = learn(game, ADAM, 250)
    assert abs(mode(state, game, ADAM, 0.0) - 0.15) < 0.15


def test_attacker_of_an_adaptive_type_responds_and_others_stay():
    game = probe_game((0.0, 0.0), (0.5, 0.5), (False, True))
    state, _ = learn(game, ADAM, 60)
    fresh = init_state(jax.random.split(jax.random.key(0))[0], game, ADAM)
    moved = jax.tree.map(
        lambda a, b: jnp.abs(a - b).max(axis=tuple(range(1, a.ndim))), state.phi, fresh.phi
    )
    largest = jax.tree.reduce(jnp.maximum, moved)
    assert largest[0] == 0 and largest[1] > 0.1
    adaptive = attacker_player(state, game, ADAM, 1, greedy=True)
    assert abs(float(adaptive.act(jax.random.key(0), jnp.zeros((1,)))[0][0]) - 0.5) < 0.15


def test_algorithm_1_learns_and_leaves_the_attackers_alone():
    config = ADAM.replace(
        algorithm="meta_rl", adapt_steps=3, defender_lr=0.1, optimizer="sgd", outer_lr=1.0
    )
    game = probe_game((0.5,), (0.5,), (True,))
    state, info = learn(game, config, 150)
    assert abs(mode(state, game, config, 0.5) - 0.5) < 0.15
    fresh = init_state(jax.random.split(jax.random.key(0))[0], game, config)
    assert all(
        bool((a == b).all())
        for a, b in zip(jax.tree.leaves(state.phi), jax.tree.leaves(fresh.phi), strict=True)
    )


@pytest.mark.slow
def test_algorithm_1_is_the_average_of_adapted_policies():
    # with one step of size kappa and sgd(1), theta moves by kappa times the mean gradient: twice
    # the step size, twice the move
    game = probe_game((0.5, -0.5), (0.0, 0.0), (False, False))
    base = MetaConfig(
        algorithm="meta_rl", group_size=4, adapt_steps=1, defender_lr=0.01, hidden=(4,)
    )
    state = init_state(jax.random.key(0), game, base)
    one, _ = meta_rl_update(jax.random.key(1), state, game, base)
    two, _ = meta_rl_update(jax.random.key(1), state, game, base.replace(defender_lr=0.02))
    for start, a, b in zip(*map(jax.tree.leaves, (state.theta, one.theta, two.theta)), strict=True):
        assert jnp.allclose(2 * (a - start), b - start, atol=1e-6)
