"""Credit for each decision: the exact gradient of a round's reward, once averaged over decisions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.config import FLConfig, MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.game.rollout import Played
from metasg_jax.learning.estimators.credit import credited
from metasg_jax.learning.meta_sl import meta_sl_step
from metasg_jax.learning.state import defender_player, init_state
from metasg_jax.testing import tiny_game

GAME = tiny_game(
    ("none", "ipm:scale=8@0.5"),
    FLConfig(num_clients=6, num_sampled=3, batch_size=4, horizon=2, local_lr=0.5),
    rule="client_trust", observation="clients", post_defense="none",
)  # fmt: skip
CONFIG = MetaConfig(set_hidden=(4, 4), gradient="credit", group_size=2, hidden=(3,))
N = GAME.num_trusted


@pytest.fixture(scope="module")
def played():
    """A round against the second type: what is seen, rewards and credits of all 8 decisions."""
    state = init_state(jax.random.key(0), GAME, CONFIG)
    player = defender_player(state, GAME, CONFIG)
    xi = GAME.prior[1]

    @jax.jit
    def every(actions):
        begun = GAME.reset(jax.random.key(1), xi)
        nothing = jnp.zeros((GAME.attacker_action_size,))
        received, obs, begun = GAME.attack(jax.random.key(2), begun, xi, nothing)

        def one(action):
            step = GAME.defend(jax.random.key(3), begun, xi, received, action)[1]
            credits = GAME.credits(jax.random.key(3), begun, xi, received, action)
            return step.defender_reward, credits

        return obs, jax.vmap(one)(actions)

    knobs = jnp.array([1.0, -1.0, -1.0])
    keeps = np.array(list(itertools.product((-1.0, 1.0), repeat=N)), np.float32)
    actions = np.concatenate([keeps, np.tile(knobs, (len(keeps), 1))], axis=1)
    obs, (rewards, credits) = every(actions)
    return player, obs, keeps, np.asarray(rewards), np.asarray(credits)


@pytest.mark.slow
def test_credits_are_what_the_other_decision_would_have_paid(played):
    *_, keeps, rewards, credits = played
    paid = {tuple(keep): reward for keep, reward in zip(keeps, rewards, strict=True)}
    for keep, credit in zip(keeps, credits, strict=True):
        for i in range(N):
            ends = [paid[(*keep[:i], end, *keep[i + 1 :])] for end in (1.0, -1.0)]
            np.testing.assert_allclose(credit[i], ends[0] - ends[1], atol=1e-6)
    assert np.ptp(rewards) > 1e-3


@pytest.mark.slow
def test_averaged_over_decisions_it_is_the_gradient_of_the_expected_reward(played):
    player, obs, keeps, rewards, credits = played
    config = CONFIG.replace(baseline="none", discount=1.0)
    seen = player.normalizer(obs)

    def chances(theta):
        """Probability of each of the 8 decisions."""
        trust = player.policy.trust(theta, seen)
        return jnp.prod(jnp.where(keeps > 0, trust[None], 1 - trust[None]), axis=1)

    exact = jax.grad(lambda theta: chances(theta) @ rewards)(player.params)
    many = len(keeps)

    def surrogate(theta):
        def one(keep, credit):
            raw = jnp.concatenate([keep, jnp.zeros((3,))])
            add = jax.tree.map(lambda leaf: leaf[None, None, None], (seen, raw, credit))
            side = Played(add[0], add[0], add[1], add[1], jnp.zeros((1, 1, 1)))
            return credited(player.policy, theta, side, add[2], config)

        weights = jax.lax.stop_gradient(chances(theta))
        return weights @ jnp.stack([one(keeps[j], credits[j]) for j in range(many)])

    got = jax.grad(surrogate)(player.params)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(exact))
    assert largest > 1e-4
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3 * largest)


@pytest.mark.slow
def test_a_meta_step_learns_by_it():
    state = init_state(jax.random.key(0), GAME, CONFIG)
    new, info = meta_sl_step(jax.random.key(1), state, GAME, CONFIG)
    assert bool(info["finite"]) and float(info["update_norm"]) > 0
    assert jax.tree.structure(new) == jax.tree.structure(state)


def test_a_game_that_decides_about_no_client_is_refused():
    flat = tiny_game(("none", "ipm@0.5"))
    with pytest.raises(ConfigError, match="decides about no client"):
        init_state(jax.random.key(0), flat, CONFIG)
