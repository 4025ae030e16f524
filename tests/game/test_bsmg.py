"""The FL game: identity is reachable, divergence is the floor, defences act on copies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators import Mean
from metasg_jax.config import FLConfig, GameConfig
from metasg_jax.data import DATASETS
from metasg_jax.errors import ConfigError, UnknownNameError
from metasg_jax.game import Player, make_game, rollout
from metasg_jax.game.rollout import init_normalizer, rollout_groups
from metasg_jax.policies import Fixed, Random
from metasg_jax.post_defenses import NoDefense
from metasg_jax.testing import tiny_dataset, tiny_game


@pytest.fixture(scope="module")
def game():
    return tiny_game()


def constant(game, action):
    normalizer = init_normalizer(game.observation_spec)
    return Player(jnp.asarray(action, jnp.float32), normalizer, Fixed(game.action_size))


def nobody(game):
    normalizer = init_normalizer(game.attacker_observation_size)
    return Player(
        jnp.zeros((game.attacker_action_size,)), normalizer, Fixed(game.attacker_action_size)
    )


@functools.partial(jax.jit, static_argnames="num_rounds")
def episode(game, xi, player, seed, state=None, num_rounds=None):
    keys = jax.random.key(seed), jax.random.key(1)
    return rollout(
        *keys, game, game.prior[xi], player, nobody(game), state=state, num_rounds=num_rounds
    )


def play(game, xi, action, seed=0, **settings):
    # the type and the seed are traced: a game compiles once
    return episode(game, jnp.int32(xi), constant(game, action), jnp.int32(seed), **settings)


@pytest.mark.parametrize("xi", [0, 1, 2])
def test_open_knobs_are_exactly_the_mean_without_defence(game, xi):
    plain = game.replace(rule=Mean(), post_defense=NoDefense())
    steered, played = play(game, xi, (1.0, -1.0, 1.0))
    mean, expected = play(plain, xi, (0.0,))
    assert jnp.allclose(steered.w, mean.w, atol=1e-6)
    assert jnp.allclose(played.defender.reward, expected.defender.reward, atol=1e-5)


def test_post_training_defence_never_feeds_back(game):
    open_, with_open = play(game, 1, (0.0, 0.0, 1.0))
    tight, with_tight = play(game, 1, (0.0, 0.0, -1.0))
    assert (open_.w == tight.w).all()
    assert jnp.abs(with_open.defender.reward - with_tight.defender.reward).max() > 1e-3


def test_rewards_are_bounded_and_attack_pays(game):
    _, honest = play(game, 0, (1.0, -1.0, 1.0))
    _, attacked = play(game, 1, (1.0, -1.0, 1.0))
    for played in (honest, attacked):
        assert ((played.defender.reward <= 0) & (played.defender.reward >= -2)).all()
        assert (jnp.abs(played.attacker.reward) <= 1).all()
    assert (honest.attacker.reward == 0).all()
    sampled = attacked.info["malicious"] > 0
    assert (attacked.attacker.reward[~sampled] == 0).all()


def test_divergence_is_the_floor_for_all_remaining_rounds_and_counted():
    # a learning rate that overflows float32: the mean has no defence against it
    fl = FLConfig(
        num_clients=8, num_sampled=4, batch_size=4, horizon=3, local_lr=1e10, server_lr=1e35
    )
    game = tiny_game(fl=fl)
    state, played = play(game, 2, (1.0, -1.0, 1.0))
    gone = np.asarray(played.info["diverged"])
    assert gone[-1] and (np.diff(gone.astype(int)) >= 0).all()
    assert (np.asarray(played.defender.reward)[gone] == -2).all()
    assert jnp.isfinite(state.w).all() and jnp.isfinite(played.defender.raw_obs).all()


@pytest.mark.parametrize("observation", ["statistics", "paper"])
def test_observations_have_the_size_they_say(observation):
    game = tiny_game(observation=observation)
    _, played = play(game, 1, (0.0, 0.0, 0.0))
    assert played.defender.raw_obs.shape == (3, game.observation_spec)
    assert jnp.isfinite(played.defender.raw_obs).all()
    assert game.needs_root == (observation == "statistics")


def test_a_group_shares_the_environment_and_differs_in_noise(game):
    normalizer = init_normalizer(game.observation_spec)
    chance = Player((), normalizer, Random(game.action_size))
    played = jax.jit(
        lambda game: rollout_groups(
            jax.random.key(0), game, game.prior[1], chance, nobody(game), 2, 3
        )
    )(game)
    sampled = played.info["malicious"]
    assert (sampled[:, 0] == sampled[:, 1]).all()
    assert (played.defender.action[:, 0] != played.defender.action[:, 1]).all()
    assert (played.defender.raw_obs[0, 0, 0] == played.defender.raw_obs[0, 1, 0]).all()


@pytest.mark.slow
def test_episode_may_be_played_in_parts_from_a_state(game):
    whole, _ = play(game, 1, (0, 0, 0), num_rounds=1)
    assert int(whole.round) == 1
    more, _ = play(game, 1, (0, 0, 0), seed=2, state=whole, num_rounds=2)
    assert int(more.round) == 3


def test_splits_are_disjoint_and_seeds_move_them():
    one, same, other = (
        make_game(
            GameConfig(num_root=12, num_validation=30, seed=s, hidden=(4,), types=("none",)),
            FLConfig(num_clients=8, num_sampled=4),
            tiny_dataset(),
        )
        for s in (0, 0, 1)
    )
    rows, sizes = np.asarray(one.data.index), np.asarray(one.data.sizes)
    owned = [set(row[:size].tolist()) for row, size in zip(rows, sizes, strict=True)]
    assert sum(map(len, owned)) == len(set().union(*owned)) == 300 - 30
    assert (one.data.index == same.data.index).all()
    assert not jnp.array_equal(one.data.sizes, other.data.sizes)


@pytest.mark.parametrize(
    ("settings", "fl", "error", "message"),
    [
        (dict(rule="trimed_mean"), {}, UnknownNameError, "did you mean 'trimmed_mean'"),
        (dict(post_defense="prun"), {}, UnknownNameError, "did you mean 'prune'"),
        (dict(model="mpl"), {}, UnknownNameError, "did you mean 'mlp'"),
        (dict(observation="stats"), {}, UnknownNameError, "statistics"),
        (dict(partition="dirichlt"), {}, UnknownNameError, "did you mean 'dirichlet'"),
        (dict(trigger="plsu"), {}, UnknownNameError, "did you mean 'plus'"),
        (dict(types=("krum@0.2",)), {}, UnknownNameError, "attack"),
        (dict(target=3), {}, ConfigError, "target"),
        (dict(rule="krum", assumed_share=0.49), {}, ConfigError, "f = 2: in .0, n / 2."),
        (dict(assumed_share=0.5), {}, ConfigError, "assumed_share"),
        (dict(probabilities=(0.5, 0.6)), {}, ConfigError, "probabilities"),
        (dict(num_root=400), {}, ConfigError, "num_root"),
        ({}, dict(num_sampled=9), ConfigError, "between 1 and num_clients = 8"),
        ({}, dict(horizon=0), ConfigError, "horizon"),
        ({}, dict(local_lr=-1.0), ConfigError, "local_lr"),
        ({}, dict(batch_size=0), ConfigError, "batch_size"),
    ],
)
def test_bad_settings_are_named(settings, fl, error, message):
    counts = dict(num_clients=8, num_sampled=4, batch_size=4, horizon=3)
    with pytest.raises(error, match=message):
        tiny_game(fl=FLConfig(**{**counts, **fl}), **settings)


def test_every_data_set_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'mnist'"):
        make_game(GameConfig(dataset="mnits"))
    assert set(DATASETS) == {"digits", "mnist", "fashion_mnist", "cifar10"}
