"""What every registered policy promises, and the Gaussian's density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.policies import POLICIES, Categorical, Gaussian

A, OBS = 3, 4
DRAWS = 4000

# a set policy reads views of clients: test_set_policy.py
FLAT = sorted(POLICIES.keys() - {"set"})
every_policy = pytest.mark.parametrize("name", FLAT)


def build(name, seed=0):
    """A policy and parameters away from their start, so that observations matter."""
    policy = POLICIES[name](A)
    params = policy.init(jax.random.key(seed), OBS)
    rng = np.random.default_rng(seed)
    return policy, jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.3 * rng.uniform(-1, 1, leaf.shape).astype("f"), params
    )


def draw(policy, params, obs, count=DRAWS):
    keys = jax.random.split(jax.random.key(5), count)
    return jax.jit(jax.vmap(lambda key: policy.sample(key, params, obs)))(keys)


def observation(seed=0):
    return np.random.default_rng(seed).normal(size=OBS).astype(np.float32)


@every_policy
def test_actions_are_in_range(name):
    policy, params = build(name)
    wild = 100 * observation()
    actions, raw = draw(policy, params, wild)
    mode = policy.mode(params, wild)
    assert actions.shape == raw.shape == (DRAWS, A) and mode.shape == (A,)
    for action in (actions, mode):
        assert action.dtype == jnp.float32
        assert np.isfinite(action).all() and (np.abs(action) <= 1).all()


@pytest.mark.parametrize("name", [name for name in FLAT if name != "categorical"])
def test_a_fresh_policy_plays_about_the_centre(name):
    policy = POLICIES[name](A)
    params = policy.init(jax.random.key(0), OBS)
    np.testing.assert_allclose(policy.mode(params, observation()), 0.0, atol=0.05)


@every_policy
def test_log_prob_is_finite_and_jit_equals_eager(name):
    policy, params = build(name)
    _, raw = draw(policy, params, observation(), count=1)
    eager = policy.log_prob(params, observation(), raw[0])
    jitted = jax.jit(policy.log_prob)(params, observation(), raw[0])
    assert jnp.shape(eager) == () and np.isfinite(eager)
    np.testing.assert_allclose(jitted, eager, rtol=1e-5)


@every_policy
def test_equal_policies_are_one_static_argument(name):
    assert POLICIES[name](A) == POLICIES[name](A)
    assert hash(POLICIES[name](A)) == hash(POLICIES[name](A))
    assert POLICIES[name](A) != POLICIES[name](A + 1)


def test_gaussian_log_prob_is_the_normal_density():
    policy, params = build("gaussian")
    obs = observation()
    mean, std = np.arctanh(policy.mode(params, obs)), np.exp(np.minimum(params["log_std"], 0))
    for seed in range(3):
        raw = np.random.default_rng(seed).normal(size=A).astype(np.float32)
        density = np.exp(-0.5 * ((raw - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
        log_prob = policy.log_prob(params, obs, raw)
        np.testing.assert_allclose(log_prob, np.log(density).sum(), rtol=1e-4)


def test_gaussian_samples_have_its_moments():
    policy, params = build("gaussian")
    obs = observation()
    actions, raw = draw(policy, params, obs)
    mean, std = np.arctanh(policy.mode(params, obs)), np.exp(params["log_std"])
    np.testing.assert_allclose(actions, np.tanh(raw), rtol=1e-5)
    assert (np.abs(raw.mean(axis=0) - mean) < 4 * std / np.sqrt(DRAWS)).all()
    assert (np.abs(raw.std(axis=0) - std) < 4 * std / np.sqrt(2 * DRAWS)).all()


def test_gaussian_score_has_mean_zero():
    policy, params = build("gaussian")
    obs = observation()
    _, raw = draw(policy, params, obs)
    scores = jax.jit(jax.vmap(jax.grad(policy.log_prob), (None, None, 0)))(params, obs, raw)
    flat = np.concatenate([np.reshape(leaf, (DRAWS, -1)) for leaf in jax.tree.leaves(scores)], 1)
    sigma = flat.std(axis=0) / np.sqrt(DRAWS)
    assert (flat.std(axis=0) > 0).mean() > 0.9
    assert (np.abs(flat.mean(axis=0)) <= 4.5 * sigma + 1e-6).all()


@pytest.mark.parametrize(("log_std", "bound"), [(-9.0, -4.0), (5.0, 0.0)])
def test_gaussian_deviation_is_bounded(log_std, bound):
    policy, params = build("gaussian")
    obs, raw = observation(), np.full(A, 0.1, np.float32)
    beyond, at_bound = (
        policy.log_prob(params | {"log_std": np.full(A, value, np.float32)}, obs, raw)
        for value in (log_std, bound)
    )
    np.testing.assert_allclose(beyond, at_bound, rtol=1e-6)


def test_gaussian_starts_with_the_deviation_it_is_given():
    params = Gaussian(A, init_std=0.25).init(jax.random.key(0), OBS)
    np.testing.assert_allclose(np.exp(params["log_std"]), 0.25, rtol=1e-6)


def test_gaussian_can_keep_its_deviation():
    policy = Gaussian(A, init_std=0.25, learn_std=False)
    params = policy.init(jax.random.key(0), OBS)
    assert set(params) == {"mean"}
    _, raw = draw(policy, params, observation())
    assert (np.abs(raw.std(axis=0) - 0.25) < 4 * 0.25 / np.sqrt(2 * DRAWS)).all()


def test_a_fresh_categorical_policy_is_about_uniform():
    policy = Categorical(A, (8,))
    logits = policy.logits(policy.init(jax.random.key(0), OBS), observation())
    np.testing.assert_allclose(jax.nn.softmax(logits), 1 / A, atol=0.05)


def test_categorical_draws_one_hot_actions_with_its_probabilities():
    policy, params = build("categorical")
    obs = observation()
    actions, _ = draw(policy, params, obs)
    assert (np.sort(actions, axis=1) == [0, 0, 1]).all()
    p = np.exp([policy.log_prob(params, obs, row) for row in np.eye(A, dtype=np.float32)])
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-5)
    assert (np.abs(actions.mean(axis=0) - p) < 4 * np.sqrt(p * (1 - p) / DRAWS)).all()
    assert policy.mode(params, obs).argmax() == p.argmax()


def test_a_tabular_categorical_policy_has_a_row_an_observation_and_no_idle_parameter():
    policy = Categorical(A)
    params = policy.init(jax.random.key(0), OBS)
    assert jax.tree.map(jnp.shape, params) == {"Dense_0": {"kernel": (OBS, A - 1)}}
    obs = np.eye(OBS, dtype=np.float32)[1]
    row = params["Dense_0"]["kernel"][1]
    np.testing.assert_allclose(policy.logits(params, obs), np.append(0, row), rtol=1e-6)


def test_fixed_plays_its_parameters():
    action = np.array([0.5, -1.0, 1.0], np.float32)
    policy = POLICIES["fixed"](A)
    for played in (*policy.sample(jax.random.key(0), action, None), policy.mode(action, None)):
        np.testing.assert_array_equal(played, action)


def test_random_is_uniform():
    policy = POLICIES["random"](A)
    actions, _ = draw(policy, (), observation())
    quarters = np.stack([np.histogram(column, 4, (-1, 1))[0] for column in np.asarray(actions).T])
    sigma = np.sqrt(DRAWS * 0.25 * 0.75)
    assert (np.abs(quarters - DRAWS / 4) < 4 * sigma).all()
    np.testing.assert_allclose(policy.log_prob((), None, actions[0]), A * np.log(0.5), rtol=1e-6)
