"""The meta-step: pure, vmappable with real branches, compiled once, the same in any chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metasg_jax
from metasg_jax.config import FLConfig, MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.game.bsmg import FLGame
from metasg_jax.game.rollout import rollout_groups
from metasg_jax.learning import init_state, meta_sl_step, meta_sl_update, pretrain
from metasg_jax.learning.estimators import policy_gradient
from metasg_jax.learning.state import attacker_player, defender_player
from metasg_jax.testing import probe_game, tiny_game

CONFIG = MetaConfig(group_size=2, hidden=(4,), attacker_steps=1)
TYPES = ("none", "ipm:scale=2@0.25", "rl:max_steps=2@0.25")


@pytest.fixture(scope="module")
def game():
    fl = FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=2, local_lr=0.5)
    return tiny_game(TYPES, fl)


@pytest.fixture(scope="module")
def state(game):
    return init_state(jax.random.key(0), game, CONFIG)


def same(a, b) -> bool:
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in leaves)


def test_public_names():
    for name in ("meta_sl_step", "MetaSGState", "init_state", "make_game"):
        assert name in metasg_jax.__all__ and hasattr(metasg_jax, name)


def test_step_is_deterministic_leaves_its_input_and_counts(game, state):
    before = jax.tree.map(np.asarray, state)
    one, info = meta_sl_step(jax.random.key(1), state, game, CONFIG)
    two, _ = meta_sl_step(jax.random.key(1), state, game, CONFIG)
    other, _ = meta_sl_step(jax.random.key(2), state, game, CONFIG)
    assert same(one, two) and same(before, state)
    assert not same(one.theta, other.theta)
    assert one.num_steps == 1 and bool(info["finite"])
    assert info["type/return_D"].shape == (3,)


def test_one_trace_for_other_step_sizes_and_games_of_the_same_shape(game, state):
    traces = []

    @jax.jit
    def step(key, state, game, config):
        traces.append(1)
        return meta_sl_update(key, state, game, config)

    first, _ = step(jax.random.key(1), state, game, CONFIG)
    step(jax.random.key(2), first, game, CONFIG.replace(adapt_lr=0.5, discount=0.7))
    step(jax.random.key(3), first, game.replace(fl=game.fl.replace(local_lr=0.1)), CONFIG)
    assert len(traces) == 1


def test_episodes_are_traced_once(game, state, monkeypatch):
    """They are what takes long to trace, whatever phases and types there are."""
    rounds, defend = [], FLGame.defend

    def counted(*args):
        rounds.append(1)
        return defend(*args)

    monkeypatch.setattr(FLGame, "defend", counted)
    # a function of its own, that nobody traced before
    jax.make_jaxpr(lambda *args: meta_sl_update(*args))(jax.random.key(5), state, game, CONFIG)
    assert len(rounds) == 1


@pytest.mark.slow
def test_vmaps_over_seeds_and_real_branches_are_left(game, state):
    keys = jax.random.split(jax.random.key(5), 2)
    step = jax.vmap(meta_sl_update, in_axes=(0, None, None, None))
    jaxpr = str(jax.make_jaxpr(step)(keys, state, game, CONFIG))
    # a switch or cond whose index got batched would have become a select_n
    single = str(jax.make_jaxpr(meta_sl_update)(jax.random.key(5), state, game, CONFIG))
    assert jaxpr.count("cond[") == single.count("cond[") >= 6
    batched, _ = jax.jit(step)(keys, state, game, CONFIG)
    fresh = jax.random.split(jax.random.key(5), 2)
    alone, _ = meta_sl_step(fresh[1], state, game, CONFIG)
    for a, b in zip(jax.tree.leaves(batched.theta), jax.tree.leaves(alone.theta), strict=True):
        assert jnp.allclose(a[1], b, atol=1e-4)


def test_chunks_change_no_bit():
    game = probe_game()

    def run(chunks):
        state = init_state(jax.random.key(0), game, CONFIG)
        for count in chunks:
            state, _ = pretrain(jax.random.key(9), state, game, CONFIG, count)
        return state

    assert same(run([2, 2]), run([4]))


def test_pretrain_compiles_once_for_equal_chunks():
    pretrain.clear_cache()
    game = probe_game()
    state = init_state(jax.random.key(0), game, CONFIG)
    for _ in range(3):
        state, _ = pretrain(jax.random.key(9), state, game, CONFIG, 1)
    assert pretrain._cache_size() == 1


def test_a_step_that_blows_up_says_so():
    game = probe_game()
    config = CONFIG.replace(defender_lr=1e38, outer_lr=1e38)
    state = init_state(jax.random.key(0), game, config)
    _, info = pretrain(jax.random.key(9), state, game, config, 3)
    assert not bool(info["finite"][-1])


@pytest.mark.parametrize("outer", ["fomaml", "reptile"])
def test_without_adaptation_line_23_is_plain_ascent(outer):
    """With eta = 0 both readings move theta by kappa times the mean gradient."""
    game = probe_game((0.5, -0.5), (0.0, 0.0), (False, False), (0.25, 0.75))
    config = MetaConfig(group_size=4, hidden=(4,), adapt_lr=0.0, defender_lr=0.1, outer=outer)
    state = init_state(jax.random.key(0), game, config)
    new, _ = meta_sl_step(jax.random.key(1), state, game, config)
    plain, _ = meta_sl_step(jax.random.key(1), state, game, config.replace(defender_lr=0.05))
    for start, a, b in zip(
        *map(jax.tree.leaves, (state.theta, new.theta, plain.theta)), strict=True
    ):
        assert jnp.allclose(a - start, 2 * (b - start), atol=1e-6)
        assert jnp.abs(a - start).max() > 0


def test_fomaml_and_reptile_differ_once_the_policy_adapts():
    """Line 23 as printed forgets the adapted offset; section 4.1's average keeps it."""
    game = probe_game((0.5, 0.5), (0.0, 0.0), (False, False))
    config = MetaConfig(group_size=4, hidden=(4,), adapt_lr=0.1, defender_lr=0.0)
    state = init_state(jax.random.key(0), game, config)
    fomaml, _ = meta_sl_step(jax.random.key(1), state, game, config)
    reptile, _ = meta_sl_step(jax.random.key(1), state, game, config.replace(outer="reptile"))
    assert same(fomaml.theta, state.theta)
    assert not same(reptile.theta, state.theta)


def test_sampled_types_keep_the_attackers_that_were_not_drawn():
    game = probe_game((0.0,) * 4, (0.5,) * 4, (True,) * 4)
    config = MetaConfig(group_size=4, hidden=(4,), num_types=1, attacker_lr=0.1)
    state = init_state(jax.random.key(0), game, config)
    new, _ = meta_sl_step(jax.random.key(1), state, game, config)
    moved = sum(
        (np.asarray(a) != np.asarray(b)).reshape(4, -1).any(axis=1)
        for a, b in zip(jax.tree.leaves(new.phi), jax.tree.leaves(state.phi), strict=True)
    )
    assert (moved > 0).sum() == 1


def test_normalizer_is_frozen_within_a_step_and_learns_after_it(game, state):
    new, _ = meta_sl_step(jax.random.key(1), state, game, CONFIG)
    assert float(state.normalizer.count) == 0
    assert float(new.normalizer.count) == pytest.approx(2 * 2)  # group x horizon, weights of sum 1
    assert np.isfinite(np.asarray(new.normalizer.mean)).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [("group_size", 1), ("discount", 0.0), ("outer", "maml"), ("epochs", 0), ("init_std", 0.0)],
)
def test_bad_settings_are_named(game, field, value):
    with pytest.raises(ConfigError, match=field):
        init_state(jax.random.key(0), game, CONFIG.replace(**{field: value}))


def test_policy_gradient_vanishes_for_constant_rewards():
    game = probe_game()
    state = init_state(jax.random.key(0), game, CONFIG)
    defender = defender_player(state, game, CONFIG)
    attacker = attacker_player(state, game, CONFIG, 0)
    played = rollout_groups(jax.random.key(1), game, game.prior[0], defender, attacker, 1, 2)
    flat = played.defender.replace(reward=jnp.ones_like(played.defender.reward))
    gradient = policy_gradient(defender.policy, defender.params, flat, CONFIG)
    assert all(float(jnp.abs(leaf).max()) < 1e-6 for leaf in jax.tree.leaves(gradient))
