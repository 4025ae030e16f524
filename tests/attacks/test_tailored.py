"""Attacks through the server's rule: what they find is no worse than what they tried."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators import AGGREGATORS, FLTrust, Krum, Mean
from metasg_jax.attacks import LMPKrum, Tailored, TailoredBFL
from metasg_jax.attacks.base import AttackBase
from metasg_jax.attacks.through_rule import aggregate_with, climb
from metasg_jax.fl.data import stamp, to_unit
from metasg_jax.game.make import make_rule
from tests.worlds import (
    IMAGE,
    MASK,
    MODEL,
    NUM_CLIENTS,
    PATTERN,
    PER_CLIENT,
    TARGET,
    D,
    N,
    client_data,
    context,
    group,
    play,
    start,
)

SIDE = np.random.default_rng(3).normal(size=D).astype(np.float32)


def against_the_way(update, stamped):
    """The honest rows of :func:`around` go along SIDE, more or less."""
    return -update @ SIDE


def around(rule, look=against_the_way, spread=0.3):
    rng = np.random.default_rng(5)
    rows = (SIDE + spread * rng.normal(size=(N, D))).astype(np.float32)
    return context(visible=rows).replace(rule=rule, look=look)


def crafted(attack, ctx):
    return np.asarray(jax.jit(lambda: attack.craft(jax.random.key(0), (), ctx, None)[0])())[0]


def earned(ctx, row):
    def gain(row):
        return ctx.look(aggregate_with(jax.random.key(0), ctx, row), False)

    return float(jax.jit(gain)(row))


@pytest.mark.parametrize("attack", [Tailored(), TailoredBFL()])
def test_under_the_mean_the_longest_row_against_the_way_is_best(attack):
    """A linear gain has no best row; of those tried the longest is, and the gradient adds to it."""
    if isinstance(attack, TailoredBFL):
        ctx = around(Mean(), lambda update, stamped: update @ SIDE / stamped)
        mean = ctx.visible[:2].mean(axis=0)
        others = ctx.visible[2:].mean(axis=0)
        longest = max([10 * mean, others + 10 * (mean - others)], key=lambda row: -row @ SIDE)
    else:
        ctx = around(Mean())
        mean = ctx.visible[2:].mean(axis=0)
        deviation, sign = ctx.visible[2:].std(axis=0), np.sign(mean)
        ways = [mean, *(np.linalg.norm(mean) * p / np.linalg.norm(p) for p in (sign, deviation))]
        longest = max((mean - 10 * way for way in ways), key=lambda row: -row @ SIDE)
    row = crafted(attack, ctx)
    assert -row @ SIDE > -longest @ SIDE
    step = 0.25 * np.linalg.norm(longest) * SIDE / np.linalg.norm(SIDE)
    assert -row @ SIDE >= -(longest - step) @ SIDE * (1 - 1e-5)


def test_krum_selects_what_is_crafted_for_it_and_it_costs_more_than_lmp():
    ctx = around(Krum(f=2), spread=1.0)
    row = crafted(Tailored(), ctx)
    np.testing.assert_allclose(
        aggregate_with(jax.random.key(0), ctx, jnp.asarray(row)), row, rtol=1e-5
    )
    lmp = crafted(LMPKrum(), ctx.replace(rule=None))
    assert earned(ctx, row) > max(earned(ctx, lmp), earned(ctx, ctx.visible[0]))


def test_the_gradient_goes_on_where_the_search_ends():
    goal = SIDE[::-1].copy()
    ctx = around(Mean(), lambda update, stamped: -jnp.sum((update - goal) ** 2))
    found = [earned(ctx, crafted(Tailored(steps=steps), ctx)) for steps in (1, 5, 50)]
    assert found[0] < found[1] < found[2] and found[2] > 0.5 * found[0]


def test_a_gain_that_is_not_finite_is_none():
    ctx = around(Mean(), lambda update, stamped: jnp.where(update[0] < 0, jnp.nan, update[0]))
    candidates = np.stack([np.full(D, 30.0), np.full(D, -300.0), np.full(D, 20.0)])
    row = climb(jax.random.key(0), ctx, jnp.float32(candidates), lambda u: ctx.look(u, False), 3)
    assert np.isfinite(row).all() and row[0] >= 30.0


def test_what_the_server_alone_has_is_stood_in_for():
    """FLTrust weighs rows by the server's own update, which the attacker doesn't see."""
    ctx = around(FLTrust())
    honest = aggregate_with(jax.random.key(0), ctx, jnp.asarray(ctx.visible[0]))
    assert np.isfinite(honest).all() and honest @ SIDE > 0


def test_without_the_rule_it_says_so():
    with pytest.raises(ValueError, match="knowledge = 'rule'"):
        aggregate_with(jax.random.key(0), around(None), jnp.zeros(D))


class Teller(AttackBase):
    """Sends what it sees by its images: without, then with the trigger."""

    def craft(self, key, state, ctx, action):
        zero = jnp.zeros(D)
        told = jnp.where(jnp.arange(D) == 0, ctx.look(zero, False), ctx.look(zero, True))
        return jnp.broadcast_to(told[None], (N, D)), state, {}


def test_it_looks_at_images_of_its_own_clients_and_of_nobody_else():
    def told(data):
        return np.asarray(play(group([Teller()], count=2), data=data).updates)[0, :2]

    data, other = client_data(0), client_data(1)
    own = 2 * PER_CLIENT
    images = np.concatenate([data.images[:own], other.images[own:]])
    before = told(data)
    np.testing.assert_array_equal(before, told(data.replace(images=images)))
    images = np.concatenate([other.images[:own], data.images[own:]])
    assert (np.abs(before - told(data.replace(images=images))) > 1e-4).all()


def test_what_it_sees_is_the_cross_entropy_of_its_images():
    """Clients hold one image many times, so that nothing is left to chance."""
    data = client_data(0)
    index = np.array(data.index)
    index[0] = index[1] = 5
    data = data.replace(index=index)
    assert int(data.labels[5]) != TARGET and index.shape == (NUM_CLIENTS + 1, PER_CLIENT)
    x = to_unit(jnp.asarray(data.images[5:6]))

    def loss(x, label):
        logits = MODEL.apply(MODEL.unravel(jnp.asarray(start())), x)
        return -jax.nn.log_softmax(logits)[0, label]

    stamped = stamp(x, jnp.asarray(MASK), jnp.asarray(PATTERN))
    assert x.shape == (1, *IMAGE)
    expected = [loss(x, data.labels[5]), loss(stamped, TARGET)]
    told = np.asarray(play(group([Teller()], count=2), data=data).updates)[0, :2]
    np.testing.assert_allclose(told, expected, rtol=1e-5)


@pytest.mark.parametrize("rule", AGGREGATORS)
def test_every_rule_can_be_climbed_through(rule):
    """Some choose by loops, which have no reverse derivative: traced, not run."""
    ctx = around(make_rule(rule, N, 0.0, MODEL))
    row = jax.eval_shape(lambda: Tailored().craft(jax.random.key(0), (), ctx, None)[0])
    assert row.shape == (N, D)
