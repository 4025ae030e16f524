"""Batches of episodes: played in parts they are the same episodes."""

import jax
import numpy as np
import pytest

from metasg_jax.config import FLConfig, MetaConfig
from metasg_jax.game.rollout import parts, rollout, rollout_groups
from metasg_jax.learning.state import attacker_player, defender_player, init_state
from metasg_jax.presets.cpu import TRUST
from metasg_jax.testing import tiny_game

META = MetaConfig(group_size=4, num_groups=3, hidden=(4,))


@pytest.fixture(scope="module")
def played():
    fl = FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=3, local_lr=0.5)
    game = tiny_game(("none", "bfl@0.25"), fl)
    state = init_state(jax.random.key(0), game, META)
    players = defender_player(state, game, META), attacker_player(state, game, META, 0)

    @jax.jit(static_argnums=0)
    def play(at_once):
        xi = game.prior[1]
        return rollout_groups(jax.random.key(1), game, xi, *players, 3, 4, at_once)

    return play


# 12 at once; two of three groups don't divide them, so one; three of four members, so two
@pytest.mark.parametrize("at_once", [pytest.param(8, marks=pytest.mark.slow), 3, 1])
def test_parts_change_results_by_rounding_only(played, at_once):
    whole, cut = jax.tree.leaves(played(0)), jax.tree.leaves(played(at_once))
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-5)


@pytest.mark.parametrize(
    ("at_once", "expected"),
    [
        (0, (6, 4)),
        (24, (6, 4)),
        (99, (6, 4)),
        (23, (3, 4)),
        (8, (2, 4)),
        (4, (1, 4)),
        (3, (1, 2)),
        (1, (1, 1)),
    ],
)
def test_parts_are_equal_and_no_larger_than_asked(at_once, expected):
    groups, members = parts(6, 4, at_once)
    assert (groups, members) == expected
    assert 6 % groups == 0 and 4 % members == 0


def test_members_share_the_environment_and_differ_in_noise(played):
    out = played(3)
    assert out.defender.reward.shape == (3, 4, 3)
    # the clients of a round are the environment's
    malicious = np.asarray(out.info["malicious"])
    assert (malicious == malicious[:, :1]).all()
    actions = np.asarray(out.defender.action)
    assert len(np.unique(actions[..., 0, 0])) == 12


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet8", "resnet20"])
def test_a_defender_that_decides_about_clients_plays_with_residual_networks(model):
    """Observations find the last matrix and the first layer of any model."""
    fl = FLConfig(
        num_clients=8, num_sampled=4, batch_size=4, horizon=2, local_lr=0.1, augment="crop_flip"
    )
    game = tiny_game(("none", "bfl@0.25"), fl, model=model, hidden=(4, 6), normalize=True, **TRUST)
    meta = MetaConfig(group_size=2)
    state = init_state(jax.random.key(0), game, meta)
    players = defender_player(state, game, meta), attacker_player(state, game, meta, 0)
    _, out = jax.jit(lambda key: rollout(key, key, game, game.prior[1], *players))(
        jax.random.key(1)
    )
    assert out.defender.action.shape == (2, game.action_size)
    assert np.isfinite(out.defender.reward).all()
