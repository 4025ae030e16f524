"""The teacher: answers are true, learning lowers the loss, chunks and resumption change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.config import FLConfig, MetaConfig, TeachConfig
from metasg_jax.features import FEATURES
from metasg_jax.learning.state import init_state, policies
from metasg_jax.learning.teacher import (
    begin_teaching,
    collect_lessons,
    drop_families,
    learn_normalizer,
    missed,
    teach,
)  # fmt: skip
from metasg_jax.testing import tiny_game

TYPES = ("none", "ipm:scale=5@0.5@2", "bfl:boost=2@0.25")
GAME = tiny_game(
    TYPES, FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=4, local_lr=0.5),
    rule="client_trust", observation="clients", post_defense="none",
)  # fmt: skip
META = MetaConfig(set_hidden=(8, 8))
TRIMS = (-1.0, 0.0)
CONFIG = TeachConfig(steps=30, batch=16, lr=0.02)


@pytest.fixture(scope="module")
def lessons():
    state = init_state(jax.random.key(0), GAME, META)
    got = collect_lessons(jax.random.key(1), state, GAME, META, TRIMS, told=True)
    return state, got


def test_the_answers_are_who_attacks_in_the_round(lessons):
    """Nobody without attackers, nobody before the onset, somebody after it."""
    _, got = lessons
    assert len(got) == len(TYPES) * GAME.horizon
    by_type = got.malicious.reshape(len(TYPES), GAME.horizon, 4)
    assert not by_type[0].any() and not by_type[1, :2].any()
    assert by_type[1, 2:].any() and by_type[2].any()
    assert np.isnan(got.earned).all(), "a told filter's trims earn nothing for a policy"


def test_learning_lowers_the_loss_and_chunks_change_nothing(lessons):
    state, got = lessons
    groups = (jax.tree.map(jnp.asarray, got),)
    state = learn_normalizer(state, groups)
    policy = policies(GAME, META)[0]
    opt = begin_teaching(state, CONFIG)
    key = jax.random.key(3)
    whole, _, info = teach(key, state, opt, groups, policy, CONFIG, TRIMS, jnp.int32(0), 30)
    assert info["loss"][-5:].mean() < 0.7 * info["loss"][0]
    cut, opt, _ = teach(key, state, opt, groups, policy, CONFIG, TRIMS, jnp.int32(0), 15)
    cut, _, _ = teach(key, cut, opt, groups, policy, CONFIG, TRIMS, jnp.int32(15), 15)
    for a, b in zip(jax.tree.leaves(whole.theta), jax.tree.leaves(cut.theta), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_a_trim_misses_lies_between_those_that_were_tried():
    earned = jnp.array([[0.2, 0.8], [0.5, 0.1], [jnp.nan, jnp.nan]])
    trim = jnp.array([0.0, -1.0, 0.3])
    np.testing.assert_allclose(missed(trim, earned, (-1.0, 1.0)), [0.3, 0.0, 0.0], atol=1e-6)
    beyond = missed(jnp.array([0.5]), jnp.array([[0.2, 0.8]]), (-1.0, 0.0))
    np.testing.assert_allclose(beyond, [0.5], atol=1e-6)


def test_what_servers_may_lack_is_dropped_and_nothing_else(lessons):
    _, got = lessons
    view = drop_families(jax.random.key(0), got.view, TeachConfig(drop=0.5))
    shares = dict(zip([*FEATURES, "memory"], np.asarray(view.known).mean(axis=0), strict=True))
    assert shares["norms"] == shares["cosines"] == shares["inputs"] == 1
    assert all(0.1 < shares[name] < 0.9 for name in ("root", "classes", "influence", "memory"))
    names = list(FEATURES)
    together = view.known[:, names.index("root")] == view.known[:, names.index("root_inputs")]
    assert together.all(), "without root images there is neither"
