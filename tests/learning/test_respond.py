"""Best responses to a defender that stands still."""

import jax
import numpy as np
import pytest

from metasg_jax.config import MetaConfig, RunConfig
from metasg_jax.errors import ConfigError
from metasg_jax.learning import attacker_player, best_response_step, defender_player, init_state
from metasg_jax.learning.pretrain import pretrain
from metasg_jax.programs.budget import rounds_per_step
from metasg_jax.testing import leader_follower, tiny_game

LEARNER = MetaConfig(
    algorithm="best_response", hidden=(), normalize=False, learn_std=False, init_std=0.3,
    num_groups=32, group_size=4, attacker_steps=2, attacker_lr=0.02, optimizer="adam",
)  # fmt: skip


@pytest.mark.parametrize("epochs", [1, 3])
def test_followers_find_their_best_response_in_closed_form(epochs):
    """And the leader stays where it was."""
    game = leader_follower()
    config = LEARNER.replace(epochs=epochs, ratio_clip=0.2 if epochs > 1 else 1e9)
    before = init_state(jax.random.key(0), game, config)
    theta = jax.tree.map(np.asarray, before.theta)
    state, info = pretrain(jax.random.key(1), before, game, config, 60)
    for a, b in zip(jax.tree.leaves(theta), jax.tree.leaves(state.theta), strict=True):
        np.testing.assert_array_equal(a, b)
    defender = defender_player(state, game, config)
    for i in range(len(game.prior)):
        attacker = attacker_player(state, game, config, i)
        best = game.best_response(game.prior[i], defender, attacker, 1.0)
        reached, target = (
            np.asarray(player.params["mean"]["Dense_0"]["bias"]) for player in (attacker, best)
        )
        np.testing.assert_allclose(reached, target, atol=0.12)
    assert np.isfinite(info["return_A"]).all() and info["finite"].all()
    assert info["return_A"][-5:].mean() > info["return_A"][:5].mean()


@pytest.mark.slow
def test_only_adaptive_types_move_in_the_fl_game():
    game = tiny_game(types=("none", "ipm@0.25", "rl:max_steps=2@0.25", "brl:max_steps=2@0.25"))
    config = MetaConfig(
        algorithm="best_response", hidden=(4,), group_size=2, attacker_steps=1, attacker_lr=0.1
    )
    state = init_state(jax.random.key(0), game, config)
    after, info = best_response_step(jax.random.key(1), state, game, config)
    moved = [
        any(
            not np.array_equal(a[k], b[k])
            for a, b in zip(jax.tree.leaves(state.phi), jax.tree.leaves(after.phi), strict=True)
        )
        for k in range(4)
    ]
    assert moved == [False, False, True, True]
    np.testing.assert_array_equal(after.normalizer.mean, state.normalizer.mean)
    assert after.num_steps == 1 and bool(info["finite"])


@pytest.mark.slow
def test_a_defender_that_is_randomized_plays_its_deviation_too():
    """Attackers of two defenders with one mode and two deviations learn alike, if it is not."""
    game = tiny_game(types=("none", "rl:max_steps=2@0.25"))
    config = MetaConfig(
        algorithm="best_response", hidden=(4,), group_size=2, attacker_steps=1, attacker_lr=0.1
    )
    state = init_state(jax.random.key(0), game, config)
    steady = state.replace(theta={**state.theta, "log_std": state.theta["log_std"] - 9.0})

    def rewards(state, config):
        return np.asarray(best_response_step(jax.random.key(1), state, game, config)[1]["return_D"])

    np.testing.assert_array_equal(rewards(state, config), rewards(steady, config))
    config = config.replace(randomized=True)
    assert (rewards(state, config) != rewards(steady, config)).any()


def test_a_best_response_costs_its_own_batches_only():
    config = RunConfig(meta=LEARNER.replace(num_groups=1, attacker_steps=3))
    assert rounds_per_step(config) == len(config.game.types) * 3 * 4 * config.fl.horizon


@pytest.mark.parametrize(
    ("change", "field"),
    [({"attacker_steps": 0}, "attacker_steps"), ({"gradient": "evolution"}, "gradient")],
)
def test_what_it_can_not_do_is_refused(change, field):
    with pytest.raises(ConfigError, match=field):
        LEARNER.replace(**change).check()
