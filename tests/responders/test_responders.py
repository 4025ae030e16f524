"""Attackers who look through the defence: they find what pays, and know what they are said to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators import Mean
from metasg_jax.config import FLConfig, MetaConfig
from metasg_jax.errors import ConfigError, UnknownNameError
from metasg_jax.evaluation.episodes import standing_still
from metasg_jax.game.make import make_observation
from metasg_jax.game.rollout import rollout
from metasg_jax.learning.state import defender_player, init_state
from metasg_jax.responders import Gradient, Knowledge, Looking, make_responder, mixtures
from metasg_jax.testing import tiny_game

GAME = tiny_game(
    ("none", "blended_bfl:fraction=0.9,boost=4@0.5", "blended_ipm:scale=8@0.5"),
    FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=3, local_lr=0.5),
    rule="client_trust", observation="clients", post_defense="none",
)  # fmt: skip
SIZE = GAME.attacker_action_size
MIXES = (0.0, 0.5, 1.0)
ACTIONS = mixtures(SIZE, MIXES)
N = GAME.num_trusted


@pytest.fixture(scope="module")
def defender():
    return defender_player(
        init_state(jax.random.key(0), GAME, MetaConfig(set_hidden=(4, 4))), GAME,
        MetaConfig(set_hidden=(4, 4)), greedy=True,
    )  # fmt: skip


def keeping(rows_kept):
    """A defender's decision that keeps these rows, whatever it sees."""
    keep = jnp.where(jnp.asarray(rows_kept), 1.0, -1.0)
    return lambda obs: jnp.concatenate([keep, jnp.array([1.0, -1.0, -1.0])])


@jax.jit
def look(looking, kind, kept):
    """A first round: (received, honest rows, rows of the whole attack, harm, who is malicious)."""
    xi, key = GAME.prior[kind], jax.random.key(5)
    state = GAME.reset(jax.random.key(1), xi)
    player = standing_still(GAME.action_size, GAME.observation_spec)
    received, _, harm = looking.look(key, GAME, state, xi, player, keeping(kept))
    ends = [
        GAME.answer(jax.random.key(5), state, xi, action)[0].updates
        for action in (ACTIONS[0], ACTIONS[-1])
    ]
    return received.updates, *ends, harm, GAME.malicious(state, xi)


def test_a_grid_of_mixtures_serves_both_sides():
    """Untargeted knobs come first, then the backdoor's."""
    assert ACTIONS.shape == (3, SIZE) and SIZE == 4
    np.testing.assert_array_equal(ACTIONS[:, :2], ACTIONS[:, 2:])
    np.testing.assert_allclose(ACTIONS[:, 0], [-1, 0, 1])
    np.testing.assert_allclose(mixtures(4, (0.5,), (0.5, 1.0))[:, 1], [0, 1])


@pytest.mark.parametrize("kind", [1, 2])
def test_it_sends_all_where_everything_is_kept(kind):
    sent, _, whole, harm, malicious = look(
        Looking(ACTIONS, pays="kept"), jnp.int32(kind), jnp.ones(N, bool)
    )
    assert malicious.any()
    np.testing.assert_allclose(sent, whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(harm, malicious, atol=1e-5)


@pytest.mark.parametrize("kind", [1, 2])
def test_of_rewards_it_takes_the_highest(kind):
    """Each action played out by itself: the round's reward of what it sends is the best of them."""
    sent, *_ = look(Looking(ACTIONS), jnp.int32(kind), jnp.ones(N, bool))

    @jax.jit
    def played(action):
        xi = GAME.prior[kind]
        state = GAME.reset(jax.random.key(1), xi)
        received, state = GAME.answer(jax.random.key(5), state, xi, action)
        choice = keeping(jnp.ones(N, bool))(None)
        step = GAME.defend(jax.random.key(9), state, xi, received, choice)[1]
        return step.attacker_reward, received.updates

    rewards, rows = zip(*(played(action) for action in ACTIONS), strict=True)
    assert np.ptp(rewards) > 1e-4
    np.testing.assert_allclose(sent, rows[int(np.argmax(rewards))], rtol=1e-5, atol=1e-6)


def test_what_is_not_kept_pays_nothing():
    """It takes the first of actions that pay alike: honest work, which builds a reputation."""
    sent, honest, *_, harm, _ = look(
        Looking(ACTIONS, pays="kept"), jnp.int32(1), jnp.zeros(N, bool)
    )
    np.testing.assert_allclose(sent, honest, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(harm, 0)


def test_who_is_paid_by_what_is_kept_needs_a_defence_that_keeps():
    bare = GAME.replace(rule=Mean(), observation=make_observation("paper"))
    with pytest.raises(ConfigError, match="decides about no client"):
        Looking(ACTIONS, pays="kept").look(None, bare, None, GAME.prior[1], None, None)


def test_without_attackers_nothing_changes():
    sent, honest, *_, harm, _ = look(Looking(ACTIONS), jnp.int32(0), jnp.ones(N, bool))
    np.testing.assert_allclose(sent, honest, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(harm, 0)


@jax.jit
def received():
    state = GAME.reset(jax.random.key(1), GAME.prior[1])
    return GAME.answer(jax.random.key(2), state, GAME.prior[1], ACTIONS[-1])[0]


def test_what_it_does_not_know_is_not_in_what_it_sees():
    """Rows of others and the server's update change nothing for who does not see them."""
    got = received()
    mine = np.array([True, False, False, True])
    blind = Knowledge(rows=False, root=False)
    other = got.replace(
        updates=jnp.where(mine[:, None], got.updates, 99.0), root_update=got.root_update + 7
    )
    a, b = (blind.seen(r, jnp.asarray(mine)) for r in (got, other))
    for one, two in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(a.updates[np.array([1, 2])], got.updates[np.array([3, 0])])
    seen = Knowledge().seen(got, jnp.asarray(mine))
    np.testing.assert_array_equal(seen.updates, got.updates)
    np.testing.assert_array_equal(seen.root_update, got.root_update)


def test_without_the_weights_another_player_is_asked(defender):
    """The defender's own decision is not read."""

    def wrong(obs):
        raise AssertionError("asked the defender")

    @jax.jit
    def decided(defender, got):
        xi = GAME.prior[1]
        state = GAME.reset(jax.random.key(1), xi)
        decision, _ = Knowledge(weights=defender).decision(GAME, state, xi, got, wrong)
        obs, _ = GAME.observe(state, got)
        return decision, defender.mode(obs)

    np.testing.assert_allclose(*decided(defender, received()))


@pytest.mark.slow
def test_the_gradient_pays_no_less_than_where_it_begins(defender):
    """An episode ends with a loss that is at least as high, within rounding."""

    @jax.jit
    def play(responder):
        nobody = standing_still(SIZE, GAME.attacker_observation_size)
        state, _ = rollout(
            jax.random.key(3), jax.random.key(4), GAME, GAME.prior[2], defender, nobody,
            responder=responder, num_rounds=1,
        )  # fmt: skip
        return state.w

    begins = Looking(ACTIONS)
    worst = [
        float(GAME.losses(GAME.deploy(jax.random.key(0), play(each))[0], GAME.prior[2]).clean)
        for each in (begins, Gradient(begins, steps=3, rounds=1))
    ]
    assert worst[1] > worst[0] + 1e-4, worst


@pytest.mark.slow
def test_who_takes_another_for_the_defender_follows_that_ones_gradient(defender):
    """Told of the very defender that plays, it sends what it sends where it knows it."""

    @jax.jit
    def sent(responder):
        xi = GAME.prior[2]
        state = GAME.reset(jax.random.key(1), xi)
        return responder(jax.random.key(5), GAME, state, xi, defender, defender.mode)[0].updates

    known, taken = (
        Gradient(Looking(ACTIONS, knows=Knowledge(weights=weights)), steps=2, rounds=1)
        for weights in (None, defender)
    )
    rows = sent(known)
    np.testing.assert_allclose(sent(taken), rows, rtol=1e-4, atol=1e-6)
    assert np.abs(rows - sent(Gradient(Looking(ACTIONS), steps=0, rounds=1))).max() > 1e-5


@pytest.mark.parametrize(
    ("text", "pays", "rows", "root"),
    [
        ("looking", "reward", True, True),
        ("looking / kept / no_root", "kept", True, False),
        ("gradient / no_rows", "reward", False, True),
    ],
)
def test_a_responder_is_read(text, pays, rows, root):
    got = make_responder(text, SIZE)
    looking = got.begins if isinstance(got, Gradient) else got
    assert isinstance(got, Gradient) is text.startswith("gradient")
    assert (looking.pays, looking.knows.rows, looking.knows.root) == (pays, rows, root)
    assert looking.actions.shape[1] == SIZE


def test_sleepers_have_more_to_choose_from_and_none_is_nobody():
    assert make_responder("none", SIZE) is None
    acting = make_responder("looking / sleepers", SIZE).actions[:, 1]
    np.testing.assert_allclose(np.unique(acting), [-0.5, 0.0, 1.0])


def test_a_responder_that_is_none_is_told():
    with pytest.raises(UnknownNameError, match="did you mean 'looking'"):
        make_responder("lookin", SIZE)
    with pytest.raises(ConfigError, match="'blind': one of kept, sleepers"):
        make_responder("looking / blind", SIZE)
