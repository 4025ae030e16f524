"""The attacks beyond the game card, each against a plain statement of what it does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.attacks import (
    ALIE,
    BFL,
    BRL,
    DBA,
    IPM,
    LMP,
    PGD,
    RL,
    ConstantShift,
    FreeRider,
    Gaussian,
    LabelFlip,
    LMPKrum,
    LMPTrim,
    Mimic,
    MinMax,
    MinSum,
    Neurotoxin,
    SignFlip,
)
from metasg_jax.attacks.dba import trigger_parts
from metasg_jax.attacks.neurotoxin import top_threshold
from metasg_jax.data import TRIGGERS
from metasg_jax.errors import ConfigError
from metasg_jax.fl import poison
from tests.attacks import oracles
from tests.oracles import krum
from tests.worlds import CLASSES, MASK, TARGET, D, N, attack_alone, client_data, context

KINDS = ("unit", "sign", "std")


@jax.jit
def crafted(attack, ctx, key=None):
    state = attack.init(N, D)
    return attack.craft(jax.random.key(0) if key is None else key, state, ctx, None)[0]


def cloud(seed=0, colluders=(0, 1)):
    """A context whose honest rows lie around a direction, and these rows."""
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=D) + 0.7 * rng.normal(size=(N, D))).astype(np.float32)
    ctx = context(malicious=colluders, colluders=colluders, visible=rows)
    return ctx, np.delete(rows, colluders, axis=0).astype(float)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("attack", "oracle"), [(MinMax, oracles.min_max), (MinSum, oracles.min_sum)]
)
@pytest.mark.parametrize("colluders", [(0, 1), (0, 1, 2, 4)])
def test_min_max_and_min_sum_are_what_bisection_finds(attack, oracle, kind, colluders):
    ctx, honest = cloud(colluders=colluders)
    rows = np.asarray(crafted(attack(perturbation=kind), ctx))
    np.testing.assert_allclose(rows, np.tile(oracle(honest, kind), (N, 1)), rtol=1e-3, atol=1e-4)


def test_min_max_and_min_sum_by_hand():
    """Honest -1, 1 and 3 around a mean of 1: at most 4 from each; squares of at most 4 + 16."""
    rows = np.zeros((N, D), np.float32)
    rows[:3, 0] = [-1.0, 1.0, 3.0]
    ctx = context(malicious=(3,), colluders=(3, 4, 5), visible=rows)
    assert float(crafted(MinMax(), ctx)[3, 0]) == pytest.approx(-1.0, abs=1e-5)
    # (m - 1)^2 * 3 + 8 = 20
    assert float(crafted(MinSum(), ctx)[3, 0]) == pytest.approx(-1.0, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("colluders", [(0,), (0, 1), (0, 1, 2)])
def test_lmp_krum_is_what_running_krum_finds(seed, colluders):
    ctx, honest = cloud(seed, colluders)
    want = oracles.lmp_krum(honest, len(colluders))
    rows = np.asarray(crafted(LMPKrum(), ctx))
    np.testing.assert_allclose(rows, np.tile(want, (N, 1)), rtol=1e-4)


def test_lmp_krum_by_hand():
    """Honest 1, 1.2, 1.4 and two colluders: n - f - 2 = 1 neighbour, so any pair of copies wins."""
    rows = np.zeros((N, D), np.float32)
    rows[:3] = np.array([1.0, 1.2, 1.4])[:, None]
    ctx = context(malicious=(3, 4), colluders=(3, 4, 5), visible=rows)
    ctx = ctx.replace(
        colluders=np.isin(np.arange(N), (3, 4)), weights=np.float32([1, 1, 1, 1, 1, 0])
    )
    # nearest: 0.04 d; n - 2 c - 1 = 0 counts 1; longest: 1.4 sqrt(d)
    assert float(crafted(LMPKrum(), ctx)[3, 0]) == pytest.approx(-(0.2 + 1.4), rel=1e-5)


def test_lmp_krum_of_a_mixed_attack_counts_on_its_own_rows_only():
    """Krum with f = 3 takes the crafted row, though the third colluder sends something else."""
    taken = 0
    for seed in range(8):
        ctx, _ = cloud(seed, colluders=(0, 1, 2))
        ctx = ctx.replace(malicious=np.isin(np.arange(N), (0, 1)))
        row = np.asarray(crafted(LMPKrum(), ctx))[0]
        sent = ctx.visible.astype(float)
        sent[:2] = row
        sent[2] *= 30
        assert np.abs(row).max() <= 1e-5 or np.array_equal(krum(sent, None, None, 3), sent[0])
        taken += np.abs(row).max() > 1e-5
    assert taken


def test_lmp_trim_draws_beyond_the_honest_values_on_the_far_side():
    rows = np.zeros((N, D), np.float32)
    honest = np.array([[-2.0, 1.0, -3.0, -8.0], [6.0, 5.0, 1.0, -4.0]])
    rows[2:4, :4] = honest
    ctx = context(visible=rows).replace(weights=np.float32([1, 1, 1, 1, 0, 0]))
    sent = np.stack([crafted(LMPTrim(b=2.0), ctx, jax.random.key(i))[:2, :4] for i in range(60)])
    # means 2, 3, -1, -6: below the smallest, below it, above the largest, above it
    ends = np.array([[-4.0, -2.0], [0.5, 1.0], [1.0, 2.0], [-4.0, -2.0]])
    flat = sent.reshape(-1, 4)
    assert (flat >= ends[:, 0]).all() and (flat <= ends[:, 1]).all()
    width = ends[:, 1] - ends[:, 0]
    error = np.abs(flat.mean(axis=0) - ends.mean(axis=1)) / (width / np.sqrt(12 * len(flat)))
    assert (error < 4).all()
    assert (sent[:, 0] != sent[:, 1]).all()


def test_mimic_sends_a_real_row_along_the_learned_direction():
    attack, key = Mimic(), jax.random.key(5)
    rng = np.random.default_rng(1)
    # along one axis clients differ most
    axis = np.zeros(D)
    axis[3] = 12.0
    rounds = [rng.normal(size=(N, D)) + rng.normal(size=(N, 1)) * axis for _ in range(8)]
    state, step = attack.init(N, D), jax.jit(attack.craft)
    for t, rows in enumerate(rounds):
        ctx = context(visible=rows.astype(np.float32))
        sent, state, _ = step(jax.random.fold_in(key, t), state, ctx, None)
    first = np.asarray(jax.random.normal(jax.random.fold_in(key, 0), (D,)), float)
    row, z = oracles.mimic([rows[2:] for rows in rounds], first / np.linalg.norm(first))
    np.testing.assert_allclose(sent, np.tile(row, (N, 1)), rtol=1e-5)
    np.testing.assert_allclose(state.direction, z, atol=1e-4)
    assert abs(z[3]) > 0.9
    assert float(state.rounds) == 8


def test_mimic_learns_nothing_from_a_round_without_rows():
    empty = context().replace(weights=np.zeros(N, np.float32))
    _, state, _ = Mimic().craft(jax.random.key(0), Mimic().init(N, D), empty, None)
    assert float(state.rounds) == 0 and not state.direction.any()


def test_sign_flip_turns_each_row():
    ctx = context()
    np.testing.assert_allclose(crafted(SignFlip(scale=2.0), ctx), -2 * ctx.visible)


def test_gaussian_sends_noise_of_its_deviation():
    sent = np.asarray(crafted(Gaussian(sigma=3.0), context()))
    count = sent.size
    assert abs(sent.mean()) < 4 * 3 / np.sqrt(count)
    assert abs(sent.std() - 3) < 4 * 3 / np.sqrt(2 * count)
    assert (sent[0] != sent[1]).all()


def test_label_flip_counts_labels_from_the_other_end():
    plan, _, _ = LabelFlip().plan(None, (), context(), None)
    np.testing.assert_array_equal(plan.label_map[0], np.arange(CLASSES)[::-1])
    x, y = (
        np.zeros((N, 1, 3, 4, 4, 1), np.float32),
        np.tile(np.arange(3, dtype=np.int32), (N, 1, 1)),
    )
    np.testing.assert_array_equal(poison(jax.random.key(0), plan, x, y)[1][0, 0], [2, 1, 0])


def test_label_flip_shifts_labels_by_one():
    plan, _, _ = LabelFlip(map="shift").plan(None, (), context(), None)
    want = (np.arange(CLASSES) + 1) % CLASSES
    np.testing.assert_array_equal(plan.label_map, np.tile(want, (N, 1)))


def test_free_riders_send_nothing_or_noise_of_their_own_length():
    ctx = context()
    assert not np.asarray(FreeRider().craft(jax.random.key(0), (), ctx, None)[0]).any()
    rows, own = np.asarray(FreeRider(0.5).craft(jax.random.key(0), (), ctx, None)[0]), ctx.visible
    lengths = np.linalg.norm(own[:2].astype(np.float64), axis=1)
    np.testing.assert_allclose(np.linalg.norm(rows[:2], axis=1), 0.5 * lengths, rtol=1e-5)
    assert abs(rows[0] @ rows[1]) < 0.5 * lengths[0] * lengths[1] * 0.5, "each has its own noise"
    assert np.abs(np.corrcoef(rows[0], own[0])[0, 1]) < 0.9, "nothing was trained"


def test_a_constant_shift_adds_one_direction_in_all_rounds():
    """u + scale |u| v in float64, v the unit vector that the first round drew."""
    attack, ctx = ConstantShift(0.7), context()
    rows, v, _ = attack.craft(jax.random.key(0), attack.init(N, D), ctx, None)
    v, own = np.asarray(v, np.float64), ctx.visible.astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(v), 1.0, rtol=1e-5)
    want = own + 0.7 * np.linalg.norm(own, axis=1, keepdims=True) * v[None]
    np.testing.assert_allclose(np.asarray(rows)[:2], want[:2], rtol=1e-4, atol=1e-5)
    later = context(seed=1)
    rows, again, _ = attack.craft(jax.random.key(5), jnp.asarray(v, jnp.float32), later, None)
    np.testing.assert_allclose(again, v, rtol=1e-6)


def test_label_flip_is_boosted():
    plain, boosted = (attack_alone(LabelFlip(boost=boost)) for boost in (1.0, 3.0))
    np.testing.assert_allclose(boosted[:2], 3 * plain[:2], rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_model_replacement_outvotes_the_others_in_the_mean(count):
    """n / m: the mean of m such rows and n - m zero rows is the mean of what was trained."""
    plain = attack_alone(BFL(), count=count)
    ctx = context(malicious=range(count), colluders=range(count), visible=plain)
    rows = np.asarray(crafted(BFL(replace_model=True), ctx))
    np.testing.assert_allclose(rows[:count] * count / N, plain[:count], rtol=1e-5)


def test_a_replaced_model_arrives_whole_whatever_the_servers_learning_rate():
    """Published factors are 10 clients / rate 0.1 = 100: see DBA's settings for MNIST."""
    plain = attack_alone(BFL(), count=1)
    ctx = context(malicious=range(1), colluders=range(1), visible=plain).replace(server_lr=0.1)
    rows = np.asarray(crafted(BFL(replace_model=True), ctx))
    np.testing.assert_allclose(0.1 * rows[0] / N, plain[0], rtol=1e-5)


@pytest.mark.parametrize("name", TRIGGERS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_are_disjoint_equal_and_add_up(name, shape, parts):
    mask, _ = TRIGGERS[name](shape)
    cut = np.asarray(trigger_parts(jnp.asarray(mask), parts))
    np.testing.assert_array_equal(cut.sum(axis=0), mask)
    assert cut.max() == 1
    pixels = cut[..., 0].sum(axis=(1, 2))
    assert pixels.min() >= 1 and pixels.max() - pixels.min() <= 1


def test_the_parts_of_the_distributed_trigger_are_its_bars():
    mask, _ = TRIGGERS["distributed"]((28, 28, 1), 10, position=(0, 0))
    cut = np.asarray(trigger_parts(jnp.asarray(mask), 4))[..., 0]
    for part, (row, column) in zip(cut, [(0, 0), (0, 6), (3, 0), (3, 6)], strict=True):
        want = np.zeros((28, 28))
        want[row, column : column + 4] = 1
        np.testing.assert_array_equal(part, want)


def test_dba_gives_each_client_its_part_for_good():
    """Clients 0, 3 and 5 of the attack are sampled; client 5 holds part 1."""
    member = np.array([0, -1, 3, -1, 5, -1], np.int32)
    plan, _, _ = DBA(fraction=1.0).plan(None, (), context().replace(member=member), None)
    parts = np.asarray(trigger_parts(jnp.asarray(MASK), 4))
    for row, part in ((0, 0), (2, 3), (4, 1)):
        np.testing.assert_array_equal(plan.trigger_mask[row], parts[part])
    x, y = np.zeros((N, 1, 1, 4, 4, 1), np.float32), np.zeros((N, 1, 1), np.int32)
    new_x, new_y = poison(jax.random.key(0), plan, x, y)
    assert (new_y == TARGET).all()
    np.testing.assert_allclose(new_x[4, 0, 0], 0.75 * parts[1])


def test_dba_refuses_a_trigger_with_fewer_pixels_than_parts():
    with pytest.raises(ConfigError, match="parts = 5: at most 4, the pixels of the trigger"):
        DBA(parts=5).check_trigger(MASK)


def test_pgd_stays_in_its_ball_and_is_scaled_afterwards():
    free = attack_alone(PGD(radius=1e6, steps=3))
    held = attack_alone(PGD(radius=0.05, steps=3))
    boosted = attack_alone(PGD(radius=0.05, steps=3, boost=4.0))
    assert np.linalg.norm(free[0]) > 0.1
    np.testing.assert_allclose(np.linalg.norm(held[:2], axis=1), 0.05, rtol=1e-4)
    np.testing.assert_allclose(boosted[:2], 4 * held[:2], rtol=1e-4)
    np.testing.assert_array_equal(held[0], held[1])


def test_neurotoxin_leaves_the_coordinates_alone_that_moved():
    attack, ctx = Neurotoxin(share=0.25, boost=2.0), context()
    step = jax.jit(attack.craft)
    first, state, _ = step(None, attack.init(N, D), ctx, None)
    np.testing.assert_allclose(first, 2 * ctx.visible)
    moved = np.random.default_rng(2).normal(size=D).astype(np.float32)
    second, state, _ = step(None, state, ctx.replace(w_global=ctx.w_global + moved), None)
    largest = np.argsort(-np.abs(moved))[: int(0.25 * D)]
    want = 2 * ctx.visible
    want[:, largest] = 0
    np.testing.assert_allclose(second, want)
    np.testing.assert_allclose(state.w, ctx.w_global + moved)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_the_threshold_is_exceeded_by_its_share(share):
    values = np.abs(np.random.default_rng(0).normal(size=1000)).astype(np.float32) ** 3
    exceeded = (values > float(top_threshold(jnp.asarray(values), share))).sum()
    assert abs(exceeded - share * 1000) <= 1


@pytest.mark.parametrize(
    "attack", [IPM, ALIE, LMP, LMPTrim, LMPKrum, MinMax, MinSum], ids=lambda a: a.__name__
)
def test_with_own_knowledge_the_colluders_honest_updates_stand_for_all(attack):
    """As if their rows were the honest ones of a round in which the full knowledge sees them."""
    ctx = context(malicious=(0, 1, 2), colluders=(0, 1, 2))
    hidden = ctx.replace(
        visible=np.where(ctx.colluders[:, None], ctx.visible, 0), weights=ctx.colluders * 1.0
    )
    own, full = crafted(attack(knowledge="own"), hidden), crafted(attack(), hidden)
    np.testing.assert_allclose(own, full, rtol=1e-5)
    if attack in (IPM, ALIE):
        mean, std = ctx.visible[:3].mean(axis=0), ctx.visible[:3].std(axis=0)
        want = -mean if attack is IPM else mean - 1.5 * std
        np.testing.assert_allclose(own[0], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attack", [ALIE, LMP, MinMax, MinSum], ids=lambda a: a.__name__)
def test_a_single_colluder_with_own_knowledge_sends_its_honest_update(attack):
    ctx = context(malicious=(1,), colluders=(1,))
    hidden = ctx.replace(
        visible=np.where(ctx.colluders[:, None], ctx.visible, 0), weights=ctx.colluders * 1.0
    )
    sent = crafted(attack(knowledge="own"), hidden)
    np.testing.assert_allclose(sent[1], ctx.visible[1], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_brl_at_one_setting_is_the_projected_attack_with_a_wide_ball():
    """Half of the batch stamped, the honest learning rate, three steps, twice the update.

    The one trains on images of all its clients, the other on those of the first sampled: here they
    hold the same image.
    """
    knob, data = np.log(2) / np.log(10), client_data()
    index = np.array(data.index)
    index[:2] = 5
    data = data.replace(index=index)
    learned = attack_alone(BRL(max_steps=3), count=2, action=(0.0, 0.0, 1.0, knob), data=data)
    wide = attack_alone(PGD(radius=1e6, steps=3, boost=2.0), count=2, data=data)
    np.testing.assert_allclose(learned, wide, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(learned[0], learned[1])


@pytest.mark.parametrize(("attack", "pools"), [(BRL(), True), (RL(), True), (PGD(), False)])
def test_learned_attacks_train_on_images_of_clients_that_were_not_sampled(attack, pools):
    """Its second client, 1, is not sampled, and gets other images."""
    data, other = client_data(0), client_data(1)
    images = np.array(data.images)
    images[data.index[1]] = other.images[data.index[1]]
    # knobs in their middle: at full stealth RL looks at no image
    settings = dict(ids=np.array([0, 2, 3, 4, 5, 6], np.int32), action=(0.0, 0.0, 0.0, 0.0))
    before = attack_alone(attack, data=data, **settings)
    after = attack_alone(attack, data=data.replace(images=images), **settings)
    np.testing.assert_array_equal(before[1:], after[1:])
    assert (np.abs(before[0] - after[0]).max() > 1e-4) == pools


@pytest.mark.parametrize(
    ("action", "fraction", "lr", "steps"),
    [
        ((-1.0, -1.0, -1.0, 0.0), 0.0, 0.0, 1),
        ((0.0, 0.0, 0.0, 0.0), 0.5, 1.0, 4),  # 1 + 3.5, to the even one
        ((1.0, 1.0, 1.0, 0.0), 1.0, 2.0, 8),
        ((9.0, -9.0, 9.0, 0.0), 1.0, 0.0, 8),
    ],
)
def test_brl_maps_its_knobs(action, fraction, lr, steps):
    ctx = context()
    plan, _, _ = BRL().plan(jax.random.key(0), (), ctx, jnp.array(action))
    np.testing.assert_allclose(plan.fraction, fraction)
    np.testing.assert_allclose(plan.lr, lr * ctx.plan.lr, rtol=1e-6)
    np.testing.assert_array_equal(plan.steps, steps)
