"""One set of weights for any clients: in any order, of any number, some of them absent."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators import ClientTrust
from metasg_jax.errors import ConfigError
from metasg_jax.features import FEATURES
from metasg_jax.features.view import NUM_COLUMNS, NUM_CONTEXT, NUM_KNOWN, ClientView, view_spec
from metasg_jax.policies import SetPolicy
from metasg_jax.policies.set_policy import BODIES

KNOBS = (0.0, -0.9, -0.98)


def a_view(n, seed=0, present=None):
    rng = np.random.default_rng(seed)
    return ClientView(
        clients=rng.normal(size=(n, NUM_COLUMNS)).astype(np.float32),
        round=rng.normal(size=NUM_CONTEXT).astype(np.float32),
        present=np.ones(n, bool) if present is None else np.asarray(present),
        known=np.ones(NUM_KNOWN, bool),
    )


@pytest.fixture(params=list(BODIES), scope="module")
def learner(request):
    policy = SetPolicy(5, KNOBS, (8, 8), request.param)
    params = policy.init(jax.random.key(0), view_spec(5))
    # a fresh policy sees almost no difference: make it see one
    params = jax.tree.map(lambda leaf: leaf * 3, params)
    return policy, params, jax.jit(policy.moments), jax.jit(policy.mode)


def test_decisions_follow_the_clients_and_knobs_do_not(learner):
    _, params, moments, _ = learner
    view, order = a_view(5), np.array([3, 0, 4, 1, 2])
    turned = view.replace(clients=view.clients[order])
    logits, knobs = moments(params, view)
    other, same = moments(params, turned)
    np.testing.assert_allclose(other, np.asarray(logits)[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(same, knobs, rtol=1e-4, atol=1e-5)


def test_who_is_absent_is_not_asked(learner):
    _, params, moments, mode = learner
    view = a_view(6, present=[1, 1, 1, 1, 0, 0])
    noisy = np.array(view.clients)
    noisy[4:] = 50
    short = view.replace(clients=view.clients[:4], present=view.present[:4])
    for other in (view.replace(clients=noisy), view):
        np.testing.assert_allclose(
            np.asarray(moments(params, other)[0])[:4], moments(params, short)[0],
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip
    only = view.replace(present=np.arange(6) == 5)
    assert np.asarray(mode(params, only))[5] == 1, "the likeliest present client is kept"


@pytest.mark.parametrize(
    "lacks", [(), ("root", "root_inputs"), ("influence",), ("root", "influence")]
)
def test_who_can_not_look_has_a_threshold_of_its_own(learner, lacks):
    """It counts where both the root update and the influence on own images are missing."""
    policy, params, moments, _ = learner
    names = list(FEATURES)
    known = np.ones(NUM_KNOWN, bool)
    known[[names.index(name) for name in lacks]] = False
    view = a_view(5).replace(known=known)
    trust = jax.nn.sigmoid(moments(params, view)[0])
    low, high = float(trust.min()) - 1e-4, float(trust.max()) + 1e-4
    lenient = dataclasses.replace(policy, threshold=high, blind_threshold=low)
    kept = (lenient.mode(params, view)[:5] > 0).sum()
    assert kept == (5 if len(lacks) == 2 and "influence" in lacks else 1)
    with pytest.raises(ConfigError, match="blind_threshold = 1"):
        dataclasses.replace(policy, blind_threshold=1.0)


def test_a_user_may_ask_for_more_trimming_and_less_trust(learner):
    policy, params, _, mode = learner
    asked = policy.stricter(threshold=0.7, trim=0.3)
    assert asked.threshold == asked.blind_threshold == 0.7
    clip, trim, own = np.asarray(asked.mode(params, a_view(5))[5:])
    was = np.asarray(mode(params, a_view(5))[5:])
    assert clip == was[0] and own == was[2] and was[1] < trim
    assert float(ClientTrust().trim_share(trim)) == pytest.approx(0.3, abs=1e-6)
    assert policy.stricter(trim=0.0).mode(params, a_view(5))[6] == was[1], "at least, not at most"
    assert policy.stricter() == policy
    with pytest.raises(ConfigError, match=r"trim = 0\.46: from 0 to 0\.45"):
        policy.stricter(trim=0.46)


@pytest.mark.parametrize("n", [2, 33])
def test_the_same_weights_serve_any_number(learner, n):
    policy, params, _, mode = learner
    action = np.asarray(mode(params, a_view(n)))
    assert action.shape == (n + 3,) and set(np.unique(action[:n])) <= {-1.0, 1.0}
    assert (action[:n] > 0).any() and (np.abs(action[n:]) < 1).all()


# all families but the last, and no memory
WITHOUT_LAST = np.arange(NUM_KNOWN) < NUM_KNOWN - 2


def test_columns_of_what_is_missing_are_not_read(learner):
    _, params, moments, _ = learner
    view = a_view(5).replace(known=WITHOUT_LAST)
    other = view.replace(clients=np.where(_of_last_family(), 9, view.clients).astype(np.float32))
    np.testing.assert_array_equal(moments(params, view)[0], moments(params, other)[0])


def _of_last_family():
    from metasg_jax.features.view import known_columns

    return ~np.asarray(known_columns(WITHOUT_LAST)[0])[None]


def test_the_density_is_that_of_what_is_drawn():
    """Frequencies of decisions match the probabilities; a client's score is its own."""
    policy = SetPolicy(3, KNOBS, (4, 4), init_std=0.5)
    params = policy.init(jax.random.key(1), view_spec(3))
    params["network"]["trust"]["bias"] += 0.4
    view = a_view(3)
    draw = jax.jit(jax.vmap(lambda key: policy.sample(key, params, view)))
    actions, raw = draw(jax.random.split(jax.random.key(2), 4000))
    kept = (np.asarray(actions)[:, :3] > 0).mean(0)
    chance = np.asarray(policy.trust(params, view))
    np.testing.assert_allclose(kept, chance, atol=4 * np.sqrt(0.25 / 4000))
    np.testing.assert_allclose(np.std(np.asarray(raw)[:, 3:], axis=0), 0.5, rtol=0.1)
    per_client, knobs = policy.scores(params, view, raw[0])
    np.testing.assert_allclose(
        policy.log_prob(params, view, raw[0]), per_client.sum() + knobs, rtol=1e-6
    )
    chosen = np.where(np.asarray(raw)[0, :3] > 0, chance, 1 - chance)
    np.testing.assert_allclose(per_client, np.log(chosen), rtol=1e-5)


def test_absent_clients_have_no_density():
    policy = SetPolicy(3, KNOBS, (4, 4))
    params = policy.init(jax.random.key(1), view_spec(3))
    view = a_view(3, present=[1, 0, 1])
    per_client, _ = policy.scores(params, view, jnp.ones(6))
    assert per_client[1] == 0 and (np.asarray(per_client)[[0, 2]] < 0).all()


def test_jit_equals_eager_and_equal_policies_are_one_static_argument():
    policy, same, other = (SetPolicy(n, KNOBS, (4, 4)) for n in (3, 3, 4))
    assert policy == same and hash(policy) == hash(same) and policy != other
    params, view = policy.init(jax.random.key(1), view_spec(3)), a_view(3)
    raw = jnp.array([1.0, -1.0, 1.0, 0.2, -0.3, 0.1])
    eager = policy.log_prob(params, view, raw)
    np.testing.assert_allclose(jax.jit(policy.log_prob)(params, view, raw), eager, rtol=1e-5)
    assert np.isfinite(eager)
