"""Adaptation online where the policy decides about each client."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.config import MetaConfig
from metasg_jax.features.view import NUM_COLUMNS, NUM_CONTEXT
from metasg_jax.learning.state import attacker_player, defender_player, init_state
from metasg_jax.online import PSI, Hidden, OwnWorld, Server, begin, learn_belief, next_block
from metasg_jax.online.view import summary
from metasg_jax.presets.cpu import TRUST
from metasg_jax.testing import tiny_game
from tests.parameters import slow_but

TYPES = ("none", "ipm:scale=10@0.25")
META = MetaConfig(set_hidden=(8, 8), group_size=2)
SMALL = {
    "imagined": PSI["imagined"](batches=1, rounds=2, group_size=2, lr=0.1),
    "planned": PSI["planned"](rounds=2, thresholds=(0.3, 0.7), shares=(0.0, 0.3)),
    "trajectory": PSI["trajectory"](),
    "frozen": PSI["frozen"](),
}


@pytest.fixture(scope="module")
def server():
    """The server without a Psi, and the real game with its attackers."""
    game, real = tiny_game(types=TYPES, **TRUST), tiny_game(types=TYPES, seed=3, **TRUST)
    state = init_state(jax.random.key(0), game, META)
    own = OwnWorld(game, attacker_player(state, game, META, slice(None), True))
    meta = defender_player(state, game, META, True)
    belief = learn_belief(jax.random.key(1), own, meta.replace(greedy=False))
    return Server(own, meta, belief, None, True), Hidden(real, (1, 1, 1), own.attackers)


@pytest.mark.parametrize("name", slow_but(["planned"], SMALL))
def test_a_run_with_a_policy_of_trust(name, server):
    server, hidden = server
    psi = SMALL[name]
    server = server._replace(psi=psi)
    key = jax.random.key(2)
    prepared = psi.begin(jax.random.key(3), server.own, server.meta)
    standing, block = next_block(key, begin(key, hidden, server, prepared), hidden, server)
    assert block.view.observation.clients.shape == (1, 4, NUM_COLUMNS)
    assert block.belief.shape == (2,) and block.belief.sum() == pytest.approx(1, abs=1e-5)
    assert (block.verdict is None) == (not psi.adapts or block.strange)
    standing, _ = next_block(key, standing, hidden, server)
    assert standing.blocks == 2 and int(standing.run.state.round) == 2


def test_clients_of_the_own_world_are_strangers_to_the_server(server):
    """Who is malicious there is drawn there: memories of the real clients would tell lies."""
    server, hidden = server
    server = server._replace(psi=SMALL["frozen"])
    standing, block = next_block(
        jax.random.key(2), begin(jax.random.key(2), hidden, server, ()), hidden, server
    )
    seen = block.view.server
    assert seen.memory.counts.sum() == 4
    at = server.own.at(jax.random.key(5), 1, seen)
    assert at.memory.counts.sum() == 0 and at.memory.rounds == seen.memory.rounds == 1
    np.testing.assert_array_equal(at.memory.spread, seen.memory.spread)
    np.testing.assert_array_equal(at.w, seen.w)


def test_a_summary_is_that_of_a_set(server):
    server, hidden = server
    view = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), hidden.game.observation_spec
    )
    rows = jax.random.normal(jax.random.key(0), view.clients.shape)
    view = view.replace(clients=rows)
    told = summary(view)
    assert told.shape == (NUM_CONTEXT + 2 * NUM_COLUMNS,)
    np.testing.assert_allclose(told, summary(view.replace(clients=rows[::-1])), atol=1e-5)
    np.testing.assert_allclose(told[NUM_CONTEXT:][:3], np.asarray(rows)[:, :3].mean(axis=0), 1e-4)
    vector = jnp.arange(3.0)
    assert summary(vector) is vector


def test_what_is_planned_is_a_stricter_policy(server):
    """Every threshold with every trim decides as the policy that was made so."""
    server, hidden = server
    own, meta = server.own, server.meta
    others = SMALL["planned"].others(own, meta)
    blank = hidden.game.observation_spec
    view = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), blank)
    view = view.replace(clients=30 * jax.random.normal(jax.random.key(1), view.clients.shape))
    pairs = [(t, share) for t in (0.3, 0.7) for share in (0.0, 0.3)]
    for k, (threshold, share) in enumerate(pairs):
        params = jax.tree.map(lambda leaf, k=k: leaf[k], others)
        stricter = meta.policy.stricter(threshold, share)
        ours, theirs = meta.policy.mode(params, view), stricter.mode(meta.params, view)
        np.testing.assert_array_equal(ours[:4], theirs[:4])
        trim = 2 * share / 0.45 - 1
        assert float(ours[5]) == pytest.approx(max(trim, -0.999), abs=1e-4)
        np.testing.assert_allclose(ours[4::2], theirs[4::2], atol=1e-6)
