"""Finite games: enumeration against recursion, refusals, beliefs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.config import MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.game.rollout import Normalizer, Player, init_normalizer
from metasg_jax.learning.estimators import policy_gradient
from metasg_jax.policies import Categorical, Fixed, Gaussian
from metasg_jax.testing import (
    action_probabilities,
    best_response_table,
    count_trajectories,
    exact_values,
    finite_game,
    matrix_game,
    perfect_bayesian_value,
    posterior,
    probability,
    trajectories,
    two_types,
    value,
)

S, A_D, A_A, H = 3, 2, 2, 3
DISCOUNT = 0.7
CONFIG = MetaConfig(group_size=1, baseline="none", discount=DISCOUNT, hidden=(), normalize=False)


def tables(seed=0, types=2):
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(S), (types, S, A_D, A_A))
    transition[:, 0, :, :, 2] = 0.0  # an impossible step, to be left out
    transition /= transition.sum(-1, keepdims=True)
    rewards = rng.normal(size=(2, types, S, A_D, A_A))
    return transition, *rewards, [0.5, 0.5, 0.0]


def world():
    game = finite_game(*tables(), horizon=H, probabilities=(0.3, 0.7))
    rng = np.random.default_rng(1)
    players = [
        Player(
            {"Dense_0": {"kernel": jnp.asarray(rng.normal(size=(S, a - 1)), jnp.float32)}},
            init_normalizer(S),
            Categorical(a),
        )
        for a in (A_D, A_A)
    ]
    return game, game.prior[1], *players


def recursion(game, index, pi_d, pi_a):
    """(J_D, J_A) by backward recursion in float64: another way than the library's."""
    types = jax.tree.map(lambda a: np.asarray(a, np.float64)[index], game.prior.types)
    joint = pi_d[:, :, None] * pi_a[:, None, :]
    out = []
    for reward in (types.reward_D, types.reward_A):
        v = np.zeros(S)
        for _ in range(game.horizon):
            v = (joint * (reward + DISCOUNT * types.transition @ v)).sum((1, 2))
        out.append(np.asarray(game.initial, np.float64) @ v)
    return out


def test_value_by_another_recursion():
    game, xi, defender, attacker = world()
    pi = [np.asarray(action_probabilities(p, jnp.eye(S)), np.float64) for p in (defender, attacker)]
    np.testing.assert_allclose(
        exact_values(game, xi, defender, attacker, DISCOUNT), recursion(game, 1, *pi), rtol=1e-5
    )


def test_enumerated_episodes_give_the_value_and_its_gradient():
    game, xi, defender, attacker = world()
    played, environment = trajectories(game, xi)
    assert environment.shape == (count_trajectories(game),) == played.info["loss"].shape[:1]
    # 2 first states; state 0 is never followed by 2; the last round's successor is not listed
    assert count_trajectories(game) < 2 * (A_D * A_A * S) ** 2 * A_D * A_A
    p = probability(played, environment, defender, attacker)
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-5)
    powers = DISCOUNT ** np.arange(H)
    for side, exact in zip(
        (played.defender, played.attacker),
        exact_values(game, xi, defender, attacker, DISCOUNT),
        strict=True,
    ):
        np.testing.assert_allclose(p @ (side.reward @ powers), exact, rtol=1e-4, atol=1e-5)

    def estimate(side):
        one = jax.tree.map(lambda leaf: leaf[None, None], side)
        return policy_gradient(defender.policy, defender.params, one, CONFIG)

    gradients = jax.jit(jax.vmap(estimate))(played.defender)["Dense_0"]["kernel"]
    exact = jax.jit(
        jax.grad(
            lambda q: exact_values(game, xi, defender.replace(params=q), attacker, DISCOUNT)[0]
        )
    )(defender.params)["Dense_0"]["kernel"]
    np.testing.assert_allclose(jnp.tensordot(p, gradients, axes=1), exact, atol=1e-5)


def test_players_see_normalised_observations():
    game, xi, defender, attacker = world()
    normalizer = Normalizer(jnp.float32(10.0), jnp.full(S, 0.2), jnp.full(S, 2.0))
    scaled = defender.replace(normalizer=normalizer)
    obs = (jnp.eye(S) - 0.2) / jnp.sqrt(0.2)
    logits = obs @ defender.params["Dense_0"]["kernel"]
    want = jax.nn.softmax(jnp.concatenate([jnp.zeros((S, 1)), logits], 1))
    np.testing.assert_allclose(action_probabilities(scaled, jnp.eye(S)), want, atol=1e-5)
    played, environment = game.episodes(xi, scaled, attacker, CONFIG)
    np.testing.assert_allclose(
        played.defender.obs, jax.vmap(jax.vmap(normalizer))(played.defender.raw_obs), atol=1e-6
    )
    np.testing.assert_allclose(environment.sum(), 1.0, rtol=1e-5)


def test_greedy_and_fixed_players_play_one_action():
    _, _, defender, _ = world()
    kernel = np.asarray(defender.params["Dense_0"]["kernel"])[:, 0]
    greedy = action_probabilities(defender.replace(greedy=True), jnp.eye(S))
    np.testing.assert_array_equal(greedy[:, 1], kernel > 0)
    fixed = Player(jnp.asarray([0.0, 1.0]), init_normalizer(S), Fixed(2))
    np.testing.assert_array_equal(action_probabilities(fixed, jnp.eye(S)), [[0, 1]] * S)


def test_best_response_beats_every_deterministic_policy():
    game, xi, defender, _ = world()
    pi_d = action_probabilities(defender, jnp.eye(S))
    best = best_response_table(game, xi, pi_d, DISCOUNT)
    found = recursion(game, 1, np.asarray(pi_d, np.float64), np.asarray(best, np.float64))[1]
    grid = np.stack(np.meshgrid(*[[0, 1]] * S, indexing="ij"), -1).reshape(-1, S)
    values = [recursion(game, 1, np.asarray(pi_d, np.float64), np.eye(2)[row])[1] for row in grid]
    np.testing.assert_allclose(found, max(values), rtol=1e-5)
    assert min(values) < found - 0.1


def test_value_is_traced_in_its_payoffs():
    game = matrix_game()
    other = game.replace(prior=matrix_game([[1, 2], [3, 4]]).prior)
    count = []

    @jax.jit
    def run(game):
        count.append(1)
        pi = jnp.full((1, 2), 0.5)
        return value(game, game.prior[0], pi, pi, 1.0)[0]

    assert np.isclose(run(game), 0.1) and np.isclose(run(other), 2.5)
    assert len(count) == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"transition": np.full((2, S, A_D, A_A, S), 0.5)}, "transition"),
        ({"transition": np.zeros((2, S, A_D, A_A))}, "transition"),
        ({"reward_D": np.full((2, S, A_D, A_A), np.nan)}, "reward_D"),
        ({"initial": [0.5, 0.5]}, "initial"),
        ({"initial": [0.5, 0.6, 0.0]}, "initial"),
        ({"horizon": 0}, "horizon"),
        ({"probabilities": (0.5, 0.6)}, "probabilities"),
        ({"names": ("one",)}, "names"),
        ({"adaptive": (True,)}, "adaptive"),
    ],
)
def test_bad_tables_are_refused_by_name(changes, named):
    names = ("transition", "reward_D", "reward_A", "initial")
    settings = dict(zip(names, tables(), strict=True)) | {"horizon": H} | changes
    with pytest.raises(ConfigError, match=named):
        finite_game(**settings)


def test_no_types_are_refused():
    none = [np.asarray(a)[:0] for a in tables()[:3]]
    with pytest.raises(ConfigError, match="at least one"):
        finite_game(*none, tables()[3], horizon=H)


def test_what_is_too_long_is_refused_with_the_count():
    game = finite_game(*tables(), horizon=8)
    with pytest.raises(ValueError, match=str(count_trajectories(game))):
        trajectories(game, game.prior[0])


def test_groups_that_share_random_transitions_are_refused():
    game, xi, defender, attacker = world()
    assert game.random and not matrix_game().random
    with pytest.raises(ValueError, match="group_size = 2"):
        game.episodes(xi, defender, attacker, CONFIG.replace(group_size=2))


def test_best_response_needs_a_table():
    game, xi, defender, attacker = world()
    with pytest.raises(ValueError, match="Categorical"):
        game.best_response(xi, defender, attacker.replace(policy=Categorical(A_A, (4,))), 1.0)
    with pytest.raises(ValueError, match="Categorical"):
        game.best_response(xi, defender, attacker.replace(policy=Gaussian(A_A)), 1.0)


def test_posterior_by_hand():
    # B1: prior (0.65, 0.35), an observation twice as likely under the second type
    np.testing.assert_allclose(
        posterior(np.array([0.65, 0.35]), np.array([0.2, 0.4])), [0.13 / 0.27, 0.14 / 0.27]
    )
    np.testing.assert_array_equal(posterior(np.array([0.5, 0.5]), np.zeros(2)), [0.5, 0.5])


def test_perfect_bayesian_value_is_the_best_of_all_history_policies():
    # H = 2: an action for each first state, then one for each (first state, action, second state)
    game = finite_game(*tables(seed=3), horizon=2, probabilities=(0.3, 0.7))
    rng = np.random.default_rng(2)
    attacks = rng.dirichlet(np.ones(A_A), (2, S))
    types = jax.tree.map(lambda a: np.asarray(a, np.float64), game.prior.types)
    T = np.einsum("ksa,ksdat->ksdt", attacks, types.transition)
    R = np.einsum("ksa,ksda->ksd", attacks, types.reward_D)
    q, initial = np.array([0.3, 0.7]), np.asarray(game.initial, np.float64)
    total = 0.0
    for s in range(S):
        options = []
        for a in range(A_D):
            # unnormalised weights of (type, next state): no belief is needed
            weights = q[:, None] * T[:, s, a]
            later = np.einsum("kt,ktd->td", weights, R).max(axis=1).sum()
            options.append(q @ R[:, s, a] + DISCOUNT * later)
        total += initial[s] * max(options)
    np.testing.assert_allclose(perfect_bayesian_value(game, attacks, DISCOUNT), total, rtol=1e-6)


def test_states_of_two_types_do_not_reveal_the_type_at_once():
    game = two_types()
    obs = game.observe_attacker(game.reset(jax.random.key(0), game.prior[0]), game.prior[0])
    assert obs.shape == (2,) and game.observation_spec == 2
    np.testing.assert_array_equal(game.initial, [0.5, 0.5])
