"""Exact meta objectives: known numbers, and against the learner's own adaptation."""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player, init_normalizer
from metasg_jax.learning.adaptation import adapt
from metasg_jax.learning.estimators import policy_gradient
from metasg_jax.policies import Categorical, Gaussian
from metasg_jax.testing import (
    BanditAnswer,
    bandit,
    count_batches,
    double_well,
    exact_meta_values,
    exact_values,
    finite_game,
    leader_follower,
    matrix_game,
    quadratic_fl,
)

CONFIG = MetaConfig(
    group_size=1,
    baseline="none",
    estimator="return",
    hidden=(),
    normalize=False,
    learn_std=False,
    init_std=0.3,
    adapt_lr=0.5,
    discount=1.0,
)


def at(theta, size=2, states=1):
    params = {
        "Dense_0": {"kernel": jnp.reshape(jnp.asarray(theta, jnp.float32), (states, size - 1))}
    }
    return Player(params, init_normalizer(states), Categorical(size))


NOBODY = Player(Categorical(1).init(jax.random.key(0), 1), init_normalizer(1), Categorical(1))


def value_of(game, config, objective="sampled", attacker=NOBODY):
    def value(theta):
        return exact_meta_values(game, game.prior[0], at(theta), attacker, config, objective)[0]

    return jax.jit(value)


def test_the_bandits_derivative():
    answer = BanditAnswer()
    config = CONFIG.replace(adapt_lr=answer.adapt_lr)
    got = jax.grad(value_of(bandit(), config))(answer.theta)
    np.testing.assert_allclose(got, answer.derivative, atol=1e-6)
    np.testing.assert_allclose(by_hand(answer, hessian_score=False), answer.derivative, atol=5e-7)
    np.testing.assert_allclose(by_hand(answer, hessian_score=True), answer.with_C5, atol=5e-7)


def by_hand(answer, hessian_score):
    """(C4) in expectation, N_b = 1, in float64; (C5)'s score term on demand."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    p, total = sigmoid(answer.theta), 0.0
    for reward, chance, score in ((-1.0, 1 - p, -p), (-0.2, p, 1 - p)):
        adapted = sigmoid(answer.theta + answer.adapt_lr * reward * score)
        j, slope = -(1 - adapted) - 0.2 * adapted, 0.8 * adapted * (1 - adapted)
        hessian = reward * -p * (1 - p) + hessian_score * reward * score * score
        total += chance * (slope * (1 + answer.adapt_lr * hessian) + j * score)
    return total


def test_the_exact_objective_by_hand():
    theta, eta = 0.3, 0.5

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for steps in (1, 2):
        x = theta
        for _ in range(steps):
            x += eta * 0.8 * sigmoid(x) * (1 - sigmoid(x))
        config = CONFIG.replace(adapt_steps=steps)
        got = value_of(bandit(), config, "exact")(theta)
        np.testing.assert_allclose(got, -1 + 0.8 * sigmoid(x), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("groups", "size", "baseline"),
    [(3, 1, "none"), (3, 1, "leave_one_out"), (1, 3, "group"), (2, 2, "group"), (2, 2, "batch")],
)
def test_batches_up_to_order_stand_for_all_batches(groups, size, baseline):
    game = matrix_game()
    defender, attacker = at(0.4), at(-0.7)
    config = CONFIG.replace(num_groups=groups, group_size=size, baseline=baseline, adapt_lr=2.0)
    xi = game.prior[0]
    got = exact_meta_values(game, xi, defender, attacker, config)
    played, p = game.episodes(xi, defender, attacker, config)
    sequences = np.array(list(itertools.product(range(4), repeat=groups * size)))
    assert count_batches(4, groups, size) < len(sequences)

    def adapted(index):
        side = jax.tree.map(lambda a: a[index.reshape(groups, size)], played.defender)
        step = policy_gradient(defender.policy, defender.params, side, config)
        moved = jax.tree.map(lambda a, b: a + 2.0 * b, defender.params, step)
        return jnp.stack(exact_values(game, xi, defender.replace(params=moved), attacker, 1.0))

    want = p[sequences].prod(axis=1) @ jax.jit(jax.vmap(adapted))(jnp.asarray(sequences))
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("game", "steps", "groups", "size", "baseline"),
    [
        ("random", 1, 2, 1, "leave_one_out"),
        ("matrix", 2, 1, 2, "group"),
        ("leader_follower", 1, 1, 1, "none"),
        ("double_well", 1, 1, 1, "none"),
    ],
)
def test_sampled_values_are_the_mean_over_the_learners_adaptation(
    game, steps, groups, size, baseline
):
    config = CONFIG.replace(
        adapt_steps=steps, num_groups=groups, group_size=size, baseline=baseline,
        estimator="return_to_go", adapt_lr=1.5, discount=0.8,
    )  # fmt: skip
    if game == "random":
        rng = np.random.default_rng(0)
        game = finite_game(
            rng.dirichlet(np.ones(2), (1, 2, 2, 2)),
            *rng.normal(size=(2, 1, 2, 2, 2)),
            rng.dirichlet(np.ones(2)),
            horizon=2,
        )
        defender, attacker = at([0.3, -0.4], states=2), at([1.0, 0.2], states=2)
    elif game == "matrix":
        game, defender, attacker = matrix_game(), at(0.4), at(-0.7)
    else:
        size_ = 2 if game == "leader_follower" else 1
        config = config.replace(adapt_lr=0.1)
        game = leader_follower(0.5) if game == "leader_follower" else double_well(1.0, 0.3)
        defender, attacker = gaussian([0.2, -0.1][:size_]), gaussian([-0.3, 0.4][:size_])
    xi = game.prior[0]

    @jax.jit
    def draw(key):
        player = adapt(key, game, xi, defender, attacker, config.adapt_lr, config)[0]
        return jnp.stack(exact_values(game, xi, player, attacker, config.discount))

    drawn = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(3), 10_000)), np.float64)
    got = jax.jit(lambda: exact_meta_values(game, xi, defender, attacker, config))()
    sigma = drawn.std(axis=0) / np.sqrt(len(drawn))
    assert (sigma > 0).all()
    assert (np.abs(drawn.mean(axis=0) - np.asarray(got)) < 4 * sigma).all()


def gaussian(mean):
    policy = Gaussian(len(mean), (), CONFIG.init_std, learn_std=False)
    layer = {"kernel": jnp.zeros((1, len(mean))), "bias": jnp.asarray(mean, jnp.float32)}
    return Player({"mean": {"Dense_0": layer}}, init_normalizer(1), policy)


def test_quadrature_is_exact_for_the_leader_followers_polynomials(monkeypatch):
    # more nodes change nothing: the adapted value is a polynomial of the noise; fewer do
    game, pair = leader_follower(0.5), (gaussian([0.2, -0.1]), gaussian([-0.3, 0.4]))
    module = sys.modules[type(game).__module__]

    def values(nodes):
        monkeypatch.setattr(module, "_NODES", nodes)
        run = jax.jit(lambda *a: exact_meta_values.__wrapped__(*a))  # nothing kept of other nodes
        return run(game, game.prior[0], *pair, CONFIG)

    np.testing.assert_allclose(values(4), values(6), rtol=1e-5)
    assert abs(values(2)[0] - values(4)[0]) > 1e-4


def test_many_episodes_have_more_orders_than_float32_holds():
    game, config = matrix_game(), CONFIG.replace(num_groups=40, adapt_lr=0.0)
    got = exact_meta_values(game, game.prior[0], at(0.4), at(-0.7), config)
    want = exact_values(game, game.prior[0], at(0.4), at(-0.7), 1.0)
    np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize(
    ("game", "changes", "named"),
    [
        (matrix_game, {"num_groups": 3}, str(count_batches(4, 3, 1))),
        (matrix_game, {"gradient": "evolution"}, "evolution"),
        (quadratic_fl, {}, "quadratic"),
        (leader_follower, {"learn_std": True}, "learn_std"),
        (leader_follower, {"adapt_steps": 2}, "adapt_steps"),
    ],
)
def test_what_is_not_enumerated_is_refused(game, changes, named):
    game, config = game(), CONFIG.replace(**changes)
    if game.finite:
        pair = at(0.0), at(0.0)
    else:
        pair = [gaussian([0.0] * n) for n in (game.action_size, game.attacker_action_size)]
        learned = [Gaussian(p.policy.action_size, (), 0.3, config.learn_std) for p in pair]
        pair = [
            p.replace(policy=policy, params=policy.init(jax.random.key(0), 1))
            for p, policy in zip(pair, learned, strict=True)
        ]
    with pytest.raises(ValueError, match=named):
        exact_meta_values(game, game.prior[0], *pair, config, max_batches=19)


def test_an_unknown_objective_is_refused():
    with pytest.raises(ValueError, match="sampled, exact"):
        exact_meta_values(bandit(), bandit().prior[0], at(0.0), NOBODY, CONFIG, "both")


def test_categorical_continuous_mismatch_is_refused():
    game = leader_follower()
    with pytest.raises(ValueError, match="Categorical"):
        exact_values(game, game.prior[0], at(0.0), at(0.0), 1.0)
