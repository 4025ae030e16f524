"""PettingZoo's own checks, and that what is played is the game."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("pettingzoo", reason="pip install 'metasg-jax[pettingzoo]'")

from gymnasium.utils.env_checker import data_equivalence
from pettingzoo.test import parallel_api_test, parallel_seed_test

from metasg_jax.errors import ConfigError
from metasg_jax.integrations.pettingzoo import FederationEnv
from metasg_jax.testing import tiny_game

TYPES = ("none", "rl@0.25")
# what compiles quickly: two knobs, the last model as the observation
SMALL = {"post_defense": "none", "observation": "paper"}


@pytest.fixture(scope="module")
def game():
    return tiny_game(types=TYPES, **SMALL)


@pytest.fixture
def env(game):
    return FederationEnv(game)


def drawn(env, space_seed=7):
    """An episode of actions drawn from the spaces: what each step gave."""
    for i, agent in enumerate(env.possible_agents):
        env.action_space(agent).seed(space_seed + i)
    steps = []
    while env.agents:
        steps.append(env.step({a: env.action_space(a).sample() for a in env.agents}))
    return steps


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_passes_the_checks_of_pettingzoo(game):
    parallel_api_test(FederationEnv(game), num_cycles=50)
    parallel_seed_test(lambda: FederationEnv(game), num_cycles=50)


def test_a_seed_gives_the_same_episodes_from_there_on(game):
    """Whole episodes, the next one without a seed too: parallel_seed_test looks at one step."""
    one, other = FederationEnv(game), FederationEnv(game)
    starts = [[env.reset(seed=5), drawn(env), env.reset(), drawn(env)] for env in (one, other)]
    assert data_equivalence(*starts)
    assert not data_equivalence(starts[0][1], starts[0][3])
    assert not data_equivalence(starts[0][0], one.reset(seed=6))


def test_what_it_gives_lies_in_its_spaces_and_ends_after_all_rounds(env, game):
    observations, _ = env.reset(seed=0)
    steps = drawn(env)
    assert len(steps) == 2 * game.horizon
    for seen in [observations, *(s[0] for s in steps)]:
        assert all(env.observation_space(a).contains(seen[a]) for a in env.possible_agents)
    assert [any(s[2].values()) for s in steps] == [False] * (len(steps) - 1) + [True]
    assert not any(any(s[3].values()) for s in steps)


def test_both_are_paid_after_the_second_half(env):
    env.reset(seed=0)
    for i, (_, rewards, *_) in enumerate(drawn(env)):
        assert (rewards["defender"] != 0) == (i % 2 == 1)


def test_the_played_game_is_the_game(env, game):
    """The halves by hand, with keys as the environment draws them, give the same rewards."""
    env.reset(seed=3, options={"type": TYPES[1]})
    key, xi = env._key, game.prior[1]
    state = env._state
    attack = jax.jit(lambda key, game, *rest: game.attack(key, *rest))
    defend = jax.jit(lambda key, game, *rest: game.defend(key, *rest))
    action_a, action_d = jnp.array([0.5, 0.1, -0.4]), jnp.array([0.3, -0.2])
    for t in range(game.horizon):
        env.step({"attacker": np.asarray(action_a)})
        _, rewards, *_ = env.step({"defender": np.asarray(action_d)})
        received, _, state = attack(jax.random.fold_in(key, 2 * t), game, state, xi, action_a)
        key_d = jax.random.fold_in(key, 2 * t + 1)
        state, step = defend(key_d, game, state, xi, received, action_d)
        assert rewards["defender"] == pytest.approx(float(step.defender_reward), abs=1e-5)
        assert rewards["attacker"] == pytest.approx(float(step.attacker_reward), abs=1e-5)


def test_the_defender_is_not_told_the_type(env):
    """What it is given before anybody attacks is the same whatever the type."""
    told = {t: env.reset(seed=1, options={"type": t}) for t in TYPES}
    assert len({told[t][1]["attacker"]["type"] for t in TYPES}) == len(TYPES)
    for observations, infos in told.values():
        np.testing.assert_array_equal(observations["defender"], told["none"][0]["defender"])
        assert infos["defender"] == {"acts": False}
    env.step({"attacker": [0.0, 0.0, 0.0]})
    infos = env.step({"defender": [0.0, 0.0]})[4]
    assert infos["defender"].keys() == {"acts", "loss"}


def test_types_are_drawn_from_the_prior():
    env = FederationEnv(tiny_game(types=TYPES, probabilities=(0.0, 1.0), **SMALL))
    assert {env.reset(seed=s)[1]["attacker"]["type"] for s in range(4)} == {TYPES[1]}


def test_bad_input_is_named(env):
    with pytest.raises(ConfigError, match=r"agents = \[\]: call reset"):
        env.step({})
    with pytest.raises(ConfigError, match=r"options\['type'\] = 'krum': one of none, rl@0.25"):
        env.reset(options={"type": "krum"})
    with pytest.raises(ConfigError, match="seed = -1"):
        env.reset(seed=-1)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="an entry of attacker, whose turn"):
        env.step({"defender": [0.0, 0.0]})
    with pytest.raises(ConfigError, match=r"shape of attacker's action = \(2,\): \(3,\)"):
        env.step({"attacker": [0.0, 0.0]})


def test_a_game_of_no_vectors_is_refused():
    with pytest.raises(ConfigError, match="observation = 'clients'"):
        FederationEnv(tiny_game(rule="client_trust", observation="clients"))
    with pytest.raises(ConfigError, match="rule: neither it nor"):
        FederationEnv(tiny_game(rule="median", post_defense="none"))
