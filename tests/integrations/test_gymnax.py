"""What gymnax asks of its own environments (it publishes no checker), and that it is the game."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("gymnax", reason="pip install 'metasg-jax[gymnax]'")

from gymnax.environments.environment import Environment
from gymnax.wrappers import GymnaxToGymWrapper, LogWrapper

from metasg_jax.errors import ConfigError
from metasg_jax.game.rollout import Player, init_normalizer
from metasg_jax.integrations.gymnax import DefenderEnv
from metasg_jax.policies import Fixed
from metasg_jax.testing import tiny_game

# what compiles quickly: two knobs, the last model as the observation
SMALL = {"post_defense": "none", "observation": "paper"}


@pytest.fixture(scope="module")
def env():
    return DefenderEnv(tiny_game(types=("none", "ipm:scale=2@0.25"), **SMALL))


@pytest.fixture
def batched():
    """A switch under vmap runs all branches, with one key each: JAX takes that for reuse."""
    with jax.debug_key_reuse(False):
        yield


def equal(a, b, atol=0.0):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=0), a, b)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def test_spaces_hold_what_is_seen_and_done(env):
    """tests/helpers.py of gymnax: assert_correct_state, and spaces of the declared shapes."""
    params = env.default_params
    obs, state = env.reset(jax.random.key(0), params)
    action = env.action_space(params).sample(jax.random.key(1))
    assert env.action_space(params).contains(action)
    assert action.shape == (env.num_actions,) == (2,)
    for _ in range(params.max_steps_in_episode):
        space = env.observation_space(params)
        assert space.contains(obs) and (obs.shape, obs.dtype) == (space.shape, space.dtype)
        obs, state, reward, terminated, truncated, info = env.step(
            jax.random.key(2), state, action, params
        )
        assert reward.shape == terminated.shape == truncated.shape == ()
        assert jnp.isfinite(reward) and not truncated
    assert terminated and info["terminated"]


def test_reset_and_step_agree_in_types(env):
    """So that a scan, and a cond between a reset and a step, can carry the state."""
    params = env.default_params
    obs, state = env.reset(jax.random.key(0), params)
    obs_after, state_after, *_ = env.step(jax.random.key(1), state, jnp.zeros(2), params)
    assert shapes((obs, state)) == shapes((obs_after, state_after))


def test_after_the_last_round_it_begins_again(env):
    params, zeros = env.default_params, jnp.zeros(2)
    _, state = env.reset(jax.random.key(0), params)

    def one(state, key):
        obs, state, _, terminated, _, info = env.step(key, state, zeros, params)
        return state, (obs, terminated, state.time, info["final_observation"])

    keys = jax.random.split(jax.random.key(1), 7)
    _, (obs, terminated, time, final) = jax.lax.scan(one, state, keys)
    assert terminated.tolist() == [False, False, True, False, False, True, False]
    assert time.tolist() == [1, 2, 0, 1, 2, 0, 1]
    assert (final[0] == obs[0]).all() and (final[2] == obs[1]).all() and (final[2] != obs[2]).any()


def test_a_step_is_the_step_of_gymnax(env):
    """The same but for the final observation: gymnax's own plays a round that nobody needs."""
    params = env.default_params
    _, state = env.reset(jax.random.key(0), params)
    for t in range(4):
        key, action = jax.random.key(10 + t), jnp.array([0.4, -0.5])
        theirs = Environment.step(env, jax.random.clone(key), state, action, params)
        ours = env.step(key, state, action, params)
        equal(theirs[:5], ours[:5], atol=1e-6)
        assert theirs[5].keys() == ours[5].keys()
        state = ours[1]


@pytest.mark.slow
def test_many_at_once_are_each_by_itself(env, batched):
    params, keys = env.default_params, jax.random.split(jax.random.key(4), 6)
    actions = jax.vmap(env.action_space(params).sample)(keys)
    obs, states = jax.vmap(env.reset, in_axes=(0, None))(keys, params)
    assert len(set(states.type.tolist())) > 1
    out = jax.jit(jax.vmap(env.step, in_axes=(0, 0, 0, None)))(keys, states, actions, params)
    for i in range(2):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], (keys, states, actions))
        equal(jax.tree.map(lambda leaf, i=i: leaf[i], out), env.step(*one, params), atol=1e-4)


def test_keys_of_both_kinds_are_the_same(env):
    old, new = jax.random.PRNGKey(3), jax.random.key(3)
    equal(env.reset(old, env.default_params), env.reset(new, env.default_params))


def test_a_step_is_a_round_of_the_game(env):
    params = env.default_params
    game = params.game
    _, state = env.reset(jax.random.key(8), params)
    action = jnp.array([0.1, 0.2])
    key = jax.random.key(9)
    _, after, reward, *_ = env.step(key, state, action, params)
    key_defend = jax.random.split(jax.random.split(jax.random.clone(key))[0])[0]

    @jax.jit
    def by_hand(key, game, state):
        return game.defend(key, state.game, game.prior[state.type], state.received, action)

    played, step = by_hand(key_defend, game, state)
    assert reward == pytest.approx(float(step.defender_reward), abs=1e-6)
    equal(played.w, after.received.w_global, atol=1e-6)


def test_attackers_play_what_they_are_given():
    """An attacker that learned moves the clients' answers; the type decides which one it is."""
    game = tiny_game(types=("rl@0.5", "rl@0.5"), **SMALL)
    fixed = Fixed(game.attacker_action_size)
    knobs = jnp.array([[-1.0] * fixed.action_size, [1.0] * fixed.action_size])
    seen = init_normalizer(game.attacker_observation_size)
    given = DefenderEnv(game, Player(knobs, seen, fixed, True))
    still = DefenderEnv(game)
    moved: dict[int, float] = {}
    for seed in range(8):
        state = given.reset(jax.random.key(seed))[1]
        at_rest = still.reset(jax.random.key(seed))[1]
        gap = jnp.abs(state.received.updates - at_rest.received.updates).max()
        assert state.type == at_rest.type
        moved[int(state.type)] = max(moved.get(int(state.type), 0.0), float(gap))
    assert moved.keys() == {0, 1} and min(moved.values()) > 0 and moved[0] != moved[1]


def test_other_numbers_are_not_compiled_again(env):
    """The game is an argument: another learning rate, or world of the same shapes, is no new program."""
    params = env.default_params
    other = params.replace(game=params.game.replace(fl=params.game.fl.replace(local_lr=0.25)))
    rewards, sizes = [], []
    for each in (params, other):
        _, state = env.reset(jax.random.key(0), each)
        rewards.append(float(env.step(jax.random.key(1), state, jnp.zeros(2), each)[2]))
        sizes.append((DefenderEnv.reset._cache_size(), DefenderEnv.step._cache_size()))
    assert rewards[0] != rewards[1] and sizes[0] == sizes[1]


@pytest.mark.slow
def test_wrappers_of_gymnax_take_it(env, batched):
    params = env.default_params
    wrapped = LogWrapper(env)
    _, state = wrapped.reset(jax.random.key(0), params)
    for t in range(params.max_steps_in_episode):
        _, state, _, _, _, info = wrapped.step(jax.random.key(t), state, jnp.zeros(2), params)
    assert info["returned_episode"] and info["returned_episode_lengths"] == 3
    gym = GymnaxToGymWrapper(env, params, 0)
    obs, _ = gym.reset(seed=0)
    assert gym.observation_space.contains(np.asarray(obs))
    assert gym.step(gym.action_space.sample())[0].shape == obs.shape


def test_a_game_of_no_vectors_is_refused():
    with pytest.raises(ConfigError, match="observation = 'clients'"):
        DefenderEnv(tiny_game(rule="client_trust", observation="clients"))
    with pytest.raises(ConfigError, match="rule: neither it nor"):
        DefenderEnv(tiny_game(rule="median", post_defense="none"))
