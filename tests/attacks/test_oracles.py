"""Each attack against a plain statement of what it does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.attacks import ALIE, BFL, EB, IPM, LMP, RL, UNTARGETED, NoAttack
from metasg_jax.fl import cross_entropy, poison, to_unit
from tests import oracles
from tests.worlds import (
    MASK,
    MODEL,
    PATTERN,
    PER_CLIENT,
    SAMPLED,
    TARGET,
    D,
    N,
    attack_alone,
    client_data,
    context,
    group,
    play,
    start,
)


@jax.jit
def _craft(attack, ctx, action):
    return attack.craft(None, (), ctx, action)[0]


def craft(attack, ctx, action=None):
    return np.asarray(_craft(attack, ctx, action))  # the attack's numbers are traced


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("ipm", {"scale": 0.5}),
        ("ipm", {"scale": 5.0}),
        ("alie", {"z": 1.5}),
        ("alie", {"z": -0.3}),
        ("lmp", {"z": 2.0}),
    ],
)
@pytest.mark.parametrize("colluders", [(0, 1), (0, 1, 4), (0, 1, 2, 3, 4)])
def test_craft_equals_its_oracle(name, fields, colluders):
    """The honest rows are those of no colluder, not only of none of its own clients."""
    ctx = context(colluders=colluders)
    ctx.visible[:, :4] = 0.0  # a coordinate without a direction
    want = oracles.CRAFTS[name](np.delete(ctx.visible, colluders, axis=0).astype(float), **fields)
    rows = craft(UNTARGETED[name](**fields), ctx)
    np.testing.assert_allclose(rows, np.tile(want, (N, 1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", oracles.CRAFTS)
def test_where_all_are_colluders_their_own_rows_stand_in(name):
    ctx = context(malicious=SAMPLED, colluders=SAMPLED)
    fields = {"scale": 2.0} if name == "ipm" else {"z": 2.0}
    want = oracles.CRAFTS[name](ctx.visible.astype(float), **fields)
    rows = craft(UNTARGETED[name](**fields), ctx)
    np.testing.assert_allclose(rows[0], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attack", [ALIE(), LMP()])
def test_deviations_of_clients_that_almost_agree(attack):
    """Mean 1e3, deviation 1e-2: the one-pass formula would give noise of size 1."""
    rows = 1e3 + 1e-2 * np.random.default_rng(0).normal(size=(N, D))
    ctx = context(visible=rows.astype(np.float32))
    name = type(attack).__name__.lower()
    want = oracles.CRAFTS[name](ctx.visible[2:].astype(float), z=attack.z)
    np.testing.assert_allclose(craft(attack, ctx)[0] - 1e3, want - 1e3, atol=5e-4)


@jax.jit
def _loss(w, images, labels):
    return cross_entropy(MODEL, MODEL.unravel(w), to_unit(images), labels)


def loss(w, client):
    data = client_data()
    own = data.index[client]
    return _loss(w, data.images[own], data.labels[own])


def test_eb_is_honest_training_boosted_the_other_way():
    """One step on the whole list of images: exactly minus boost times the honest row."""
    boost, settings = 4.0, {"local_steps": 1, "batch_size": PER_CLIENT}
    honest, sent = (
        np.asarray(play(group([NoAttack(), EB(boost)], which), **settings).updates)
        for which in (0, 1)
    )
    np.testing.assert_allclose(sent[:2], -boost * honest[:2], rtol=1e-5, atol=1e-7)
    for client in (0, 1):
        assert loss(start() - sent[client], client) > loss(start(), client) + 0.01
        assert loss(start() - honest[client], client) < loss(start(), client) - 0.01


def test_eb_proximal_keeps_the_second_step_short():
    free, tied = (attack_alone(EB(1.0, proximal), local_steps=2) for proximal in (0.0, 3.0))
    assert (np.linalg.norm(tied[:2], axis=1) < np.linalg.norm(free[:2], axis=1)).all()
    np.testing.assert_array_equal(tied[2:], free[2:])


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_bfl_stamps_its_fraction_of_the_other_classes(fraction):
    steps, batch = 3, 500
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(N, steps, batch, 4, 4, 1)).astype(np.float32)
    y = rng.integers(0, 3, (N, steps, batch)).astype(np.int32)
    plan, _, _ = BFL(fraction=fraction).plan(None, (), context(), None)
    new_x, new_y = jax.jit(poison)(jax.random.key(0), plan, x, y)
    changed = (np.asarray(new_x) != x).any(axis=(3, 4, 5))

    others = y != TARGET
    assert not changed[~others].any()
    count = others.sum()
    sigma = np.sqrt(count * fraction * (1 - fraction))
    assert abs(changed.sum() - fraction * count) <= 4 * sigma
    np.testing.assert_array_equal(new_y, np.where(changed, TARGET, y))
    stamped = np.where(MASK > 0, PATTERN, x[changed])
    np.testing.assert_allclose(np.asarray(new_x)[changed], stamped, atol=1e-6)


def test_bfl_boosts_what_it_trained():
    plain, boosted = (attack_alone(BFL(boost=boost)) for boost in (1.0, 6.0))
    np.testing.assert_allclose(boosted[:2], 6 * plain[:2], rtol=1e-5)


def test_a_half_opaque_trigger_is_blended():
    plan, _, _ = BFL(fraction=1.0).plan(None, (), context().replace(trigger_mask=0.5 * MASK), None)
    x, y = np.full((N, 1, 1, 4, 4, 1), 0.25, np.float32), np.zeros((N, 1, 1), np.int32)
    new_x, _ = poison(jax.random.key(0), plan, x, y)
    np.testing.assert_allclose(new_x[0, 0, 0], np.where(MASK > 0, 0.5, 0.25), atol=1e-6)


@pytest.mark.parametrize(
    ("knob", "factor"), [(-3, 0.1), (-1, 0.1), (0, 1), (0.5, 10**0.5), (1, 10), (3, 10)]
)
def test_rl_scale_is_logarithmic(knob, factor):
    ctx = context()
    rows = craft(RL(max_scale=10.0), ctx, jnp.array([knob, 0.0, 0.0]))
    np.testing.assert_allclose(rows, factor * ctx.visible, rtol=1e-5)


@jax.jit
def _rl_plan(action):
    return RL(max_steps=8).plan(None, (), context(), action)[0]


def rl_plans(knobs):
    return [_rl_plan(np.float32(knob)) for knob in knobs]


def test_rl_steps_are_linear_from_one_to_the_most():
    knobs = np.linspace(-1, 1, 8)
    plans = rl_plans([(0.0, knob, 0.0) for knob in (-2.0, *knobs, 2.0)])
    assert [int(plan.steps[0]) for plan in plans] == [1, *range(1, 9), 8]
    assert all((plan.steps == plan.steps[0]).all() for plan in plans)


def test_rl_stealth_takes_the_place_of_climbing():
    plans = rl_plans([(0.0, 0.0, knob) for knob in (-2.0, -1.0, 0.0, 1.0, 2.0)])
    np.testing.assert_allclose([plan.stealth[0] for plan in plans], [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose([plan.sign[0] for plan in plans], [-1, -1, -0.5, 0, 0])


def test_rl_colluders_send_one_row():
    sent = attack_alone(RL(), count=3, action=(0.2, 0.3, -0.5))
    np.testing.assert_array_equal(sent[1], sent[0])
    np.testing.assert_array_equal(sent[2], sent[0])


def test_rl_scales_what_it_trained():
    plain, large = (attack_alone(RL(), action=(knob, 1.0, -1.0)) for knob in (0.0, 1.0))
    np.testing.assert_allclose(large[:2], 10 * plain[:2], rtol=1e-5)


def test_rl_hides_behind_its_own_honest_updates_or_climbs():
    honest = attack_alone(RL(), active=False, count=3)
    hidden, loud = (attack_alone(RL(), count=3, action=(0.0, 1.0, knob)) for knob in (1.0, -1.0))
    reference = honest[:3].mean(axis=0)
    assert cosine(hidden[0], reference) > 0.99
    assert cosine(loud[0], reference) < 0
    assert loss(start() - loud[0], 0) > loss(start(), 0) + 0.1


def test_colluders_of_the_other_attack_are_not_honest():
    """A mixed attack: ipm leaves the backdoor's row out of its mean, and either keeps its own."""
    untargeted = group([NoAttack(), IPM(2.0)], 1, first=0, count=2)
    backdoor = group([NoAttack(), BFL(boost=3.0)], 1, first=2, count=1)
    sent = np.asarray(play(untargeted, backdoor).updates)
    np.testing.assert_allclose(
        sent[:2], np.tile(-2 * sent[3:].mean(axis=0), (2, 1)), rtol=1e-4, atol=1e-7
    )
    quiet = np.asarray(play(group([NoAttack(), IPM(2.0)], 0), backdoor).updates)
    np.testing.assert_array_equal(sent[2:], quiet[2:])
