"""Estimates against what XLA says and against hand counts; chunks chosen by memory."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig
from metasg_jax.data import load
from metasg_jax.errors import ConfigError
from metasg_jax.game.make import make_game
from metasg_jax.learning import init_state, meta_sl_step
from metasg_jax.programs import budget
from metasg_jax.programs.budget import resolve_chunk

TYPES = ("none", "ipm@0.2", "rl:max_steps=2@0.2", "bfl@0.1")


def setting(batch_size=8, rollouts_at_once=0, **game):
    return RunConfig(
        GameConfig(
            **{"num_root": 50, "num_validation": 50, "num_test": 50, "types": TYPES, **game}
        ),
        FLConfig(num_clients=20, num_sampled=10, batch_size=batch_size, horizon=3),
        MetaConfig(group_size=2, num_groups=2, hidden=(8,), rollouts_at_once=rollouts_at_once),
    )


def game_of(config):
    return make_game(config.game, config.fl, load("digits"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        setting(hidden=(256,)),
        setting(hidden=(256,), rollouts_at_once=1),
        setting(hidden=(32,), batch_size=128, observation="paper", types=("none", "bfl@0.1")),
        setting(model="cnn", hidden=(8, 16, 16), batch_size=32, types=("none",)),
        setting(model="cnn", hidden=(8, 16, 16), batch_size=2, num_root=300, types=("bfl@0.1",)),
    ],
    ids=["updates", "one at once", "batches", "patches", "rewards"],
)
def test_memory_is_what_xla_says_within_a_factor_of_two(config):
    # the digits are too small for two convolutions of 5x5
    game = enlarged(config) if config.game.model == "cnn" else game_of(config)
    state = init_state(jax.random.key(0), game, config.meta)
    compiled = meta_sl_step.lower(jax.random.key(0), state, game, config.meta).compile()
    said = compiled.memory_analysis()
    real = said.temp_size_in_bytes + said.argument_size_in_bytes + said.output_size_in_bytes
    guess = budget.estimate(game, config).memory.total
    assert real / 2 < guess < real * 2


def enlarged(config):
    """A game on the digits at three times their size."""
    digits = load("digits")
    big = {
        name: getattr(digits, name).repeat(3, axis=1).repeat(3, axis=2)
        for name in ("train_x", "test_x")
    }
    return make_game(config.game, config.fl, dataclasses.replace(digits, **big))


def test_flops_of_an_mlp_by_hand():
    config = setting(hidden=(16,), types=("none", "bfl@0.1"))
    game, fl = game_of(config), config.fl
    inside, head = 64 * 16, 16 * 10
    # forward, weight gradients of both layers, and the input gradient of the head alone
    step = 2 * fl.batch_size * (inside + head) * 2 + 2 * fl.batch_size * head
    image = 2 * 50 * (inside + head)
    training = (fl.num_sampled + 1) * step
    # calibrating the neuron clip, the clean loss; the backdoor's, where there is one
    calibrated = image if game.post_defense.action_spec else 0
    none, backdoor = (budget.type_flops(game, k) for k in range(2))
    assert backdoor - none == pytest.approx(image, rel=0.01)
    assert none == pytest.approx(training + image + calibrated, rel=0.02)


def test_products_in_loops_and_branches_are_counted():
    a, b = jnp.ones((4, 8)), jnp.ones((8, 4))

    def loop(x):
        return jax.lax.scan(lambda c, _: (c @ b @ a, None), x, None, length=5)[0]

    assert budget.product_flops(jax.make_jaxpr(loop)(a)) == 5 * 2 * (2 * 4 * 8 * 4)

    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ b, lambda: x[:, :4])

    assert budget.product_flops(jax.make_jaxpr(branch)(a)) == 2 * 4 * 8 * 4
    assert budget.product_flops(jax.make_jaxpr(branch)(a), costly_branch=False) == 0

    def convolve(x):
        kernel = jnp.ones((3, 3, 2, 5))
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    image = jnp.ones((1, 6, 6, 2))
    assert budget.product_flops(jax.make_jaxpr(convolve)(image)) == 2 * (4 * 4 * 5) * (3 * 3 * 2)


def test_the_chunk_is_the_largest_that_fits():
    config = setting(hidden=(256,))
    game = game_of(config)
    whole = budget.memory(game, config.meta).total
    assert budget.fit(game, config.meta, whole) == 0
    chosen = budget.fit(game, config.meta, whole - 1)
    assert chosen == 2
    one = budget.memory(game, config.meta.replace(rollouts_at_once=1)).total
    assert budget.fit(game, config.meta, one) == 1
    with pytest.raises(ConfigError, match=r"memory_gib = .*GiB; raise it, or lower fl.num_sampled"):
        budget.fit(game, config.meta, one - 1)


def test_only_minus_one_is_chosen_by_memory():
    config = setting(hidden=(256,), rollouts_at_once=-1)
    game = game_of(config)
    assert resolve_chunk(config, game).meta.rollouts_at_once == 0  # the machine has enough
    whole = budget.memory(game, config.meta).total
    tight = dataclasses.replace(config, memory_gib=0.9 * whole / 2**30)
    assert resolve_chunk(tight, game).meta.rollouts_at_once == 2
    asked = dataclasses.replace(tight, meta=tight.meta.replace(rollouts_at_once=3))
    assert resolve_chunk(asked, game) == asked


def test_expected_batches_of_each_type():
    game = game_of(setting(hidden=(8,)))
    meta = MetaConfig(adapt_steps=2, attacker_steps=3)
    assert budget.batches_of_types(game, meta) == (3, 3, 6, 3)
    drawn = budget.batches_of_types(game, meta.replace(num_types=1))
    assert drawn == pytest.approx((0.75, 0.75, 1.5, 0.75))
    assert budget.batches_of_types(game, meta.replace(algorithm="meta_rl")) == (2, 2, 2, 2)
