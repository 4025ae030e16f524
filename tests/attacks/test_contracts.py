"""What every registered attack promises, alone and through a round."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.attacks import (
    BACKDOOR,
    BFL,
    IPM,
    KNOWLEDGE,
    RL,
    UNTARGETED,
    AttackBase,
    NoAttack,
    attack_table,
)
from metasg_jax.struct import field
from tests.worlds import (
    ATTACKS,
    SAMPLED,
    D,
    N,
    attack_alone,
    client_data,
    context,
    group,
    play,
    primitives,
)

MALICIOUS = ATTACKS.keys() - {"none"}
# steps, then scale and stealth off their centre: an adaptive attack must read its action
ACTION = jnp.array([0.5, 1.0, -0.5, 0.2])

# what a variant knows or sends by another field, where that is no class of its own
VARIANTS = {
    f"{name} {value}": functools.partial(ATTACKS[name], **{each.name: value})
    for name in ATTACKS
    for each in dataclasses.fields(ATTACKS[name])
    for value in each.metadata.get("choices", ())
    if value != each.default
} | {"bfl replacing": functools.partial(BFL, replace_model=True)}
CRAFTS = {**ATTACKS, **VARIANTS}

every_craft = pytest.mark.parametrize("name", CRAFTS)
every_attack = pytest.mark.parametrize("name", ATTACKS)
every_real_attack = pytest.mark.parametrize("name", sorted(MALICIOUS))


def half(method, attack, ctx, action=ACTION):
    return getattr(attack, method)(jax.random.key(0), attack.init(N, D), ctx, action)[0]


@jax.jit
def _craft_by_table(attack, ctx):
    table, [kind], [slot] = attack_table([attack])
    return table.craft(kind, slot, jax.random.key(0), table.init(N, D), ctx, ACTION)[0]


def craft_by_table(attack, ctx):
    """Through the table, which hides what the attack may not know."""
    return np.asarray(_craft_by_table(attack, ctx))


def test_names_of_the_two_registries_are_told_apart():
    assert UNTARGETED.keys() & BACKDOOR.keys() == {"none"}


def test_attacks_differ_as_pytrees():
    """Tables group attacks, and jit caches programs, by tree structure."""
    for a, b in itertools.combinations(CRAFTS.values(), 2):
        assert jax.tree.structure(a()) != jax.tree.structure(b()), (a, b)


@every_attack
def test_it_declares_what_it_knows_and_uses(name):
    attack = ATTACKS[name]()
    assert attack.knowledge in KNOWLEDGE
    assert set(attack.uses) <= {"trigger", "radius"}
    assert len(attack.action_spec) <= ACTION.size


@every_attack
def test_shapes_and_types(name):
    attack, ctx = ATTACKS[name](), context()
    plan = jax.eval_shape(lambda: half("plan", attack, ctx.replace(visible=None)))
    honest = jax.eval_shape(lambda: ctx.plan)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), plan) == jax.tree.map(
        lambda a: (a.shape, a.dtype), honest
    )
    rows = jax.eval_shape(lambda: half("craft", attack, ctx))
    assert rows.shape == (N, D) and rows.dtype == jnp.float32


@every_attack
@pytest.mark.parametrize("method", ["plan", "craft"])
def test_jit_equals_eager(name, method):
    attack, ctx = ATTACKS[name](), jax.tree.map(jnp.asarray, context())
    jitted = jax.jit(lambda attack, ctx: half(method, attack, ctx))(attack, ctx)
    for a, b in zip(
        jax.tree.leaves(jitted), jax.tree.leaves(half(method, attack, ctx)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@every_real_attack
def test_it_changes_its_own_rows_and_no_other(name):
    attack, mine = ATTACKS[name](), [2, 3]
    honest = attack_alone(attack, active=False, first=2, action=ACTION)
    sent = attack_alone(attack, first=2, action=ACTION)
    others = np.setdiff1d(SAMPLED, mine)
    np.testing.assert_array_equal(sent[others], honest[others])
    assert (np.abs(sent[mine] - honest[mine]).max(axis=1) > 1e-4).all()


@every_real_attack
def test_what_it_may_not_know_changes_nothing(name):
    """The honest clients get other images: only an attack that sees their updates may notice."""
    attack = ATTACKS[name]()
    data, other = client_data(0), client_data(1)
    images = np.concatenate([data.images[:16], other.images[16:]])
    changed = data.replace(images=images)
    before = attack_alone(attack, data=data, action=ACTION)
    after = attack_alone(attack, data=changed, action=ACTION)
    assert (np.abs(before[2:] - after[2:]).max(axis=1) > 1e-4).all()
    assert np.array_equal(before[:2], after[:2]) == (attack.knowledge == "own")


@every_craft
def test_rows_hidden_from_it_change_nothing_of_what_it_crafts(name):
    attack, ctx = CRAFTS[name](), context(colluders=(0, 1, 4))
    hidden = np.array([2, 3, 5])
    visible = ctx.visible.copy()
    visible[hidden] = 100.0
    weights = ctx.weights.copy()
    weights[hidden] = 0.5
    before = craft_by_table(attack, ctx)[:2]
    after = craft_by_table(attack, ctx.replace(visible=visible, weights=weights))[:2]
    assert np.array_equal(before, after) == (attack.knowledge == "own")


class Spy(AttackBase):
    """Sends whatever it can see of the others, each row's sum and weight, and the rule."""

    knowledge: str = field(static=True, default="own")

    def craft(self, key, state, ctx, action):
        seen = jnp.where(ctx.colluders, 0.0, jnp.abs(ctx.visible).sum(axis=1) + ctx.weights)
        return jnp.full((N, D), seen.sum() + 1e6 * (ctx.rule is not None)), state, {}


@pytest.mark.parametrize(
    ("knowledge", "rows", "rule"), [("own", 0, 0), ("all", 1, 0), ("rule", 1, 1)]
)
def test_knowledge_is_enforced_whatever_an_attack_tries(knowledge, rows, rule):
    seen = craft_by_table(Spy(knowledge), context())[0, 0]
    assert (seen % 1e6 > 0) == rows and (seen >= 1e6) == rule


@every_attack
@pytest.mark.parametrize("count", [0, N])
def test_rounds_with_none_or_all_malicious_are_legal(name, count):
    attack = ATTACKS[name]()
    sent = attack_alone(attack, count=count, action=ACTION)
    assert np.isfinite(sent).all()
    if count == 0:
        np.testing.assert_array_equal(sent, attack_alone(attack, active=False, action=ACTION))


@every_real_attack
def test_malicious_clients_outside_the_sample_do_nothing(name):
    attack, ids = ATTACKS[name](), np.array([7, 2, 6, 4, 3, 5], np.int32)
    sent = attack_alone(attack, ids=ids, action=ACTION)
    honest = attack_alone(attack, active=False, ids=ids, action=ACTION)
    np.testing.assert_array_equal(sent, honest)


def conds(batched_kind, noise=1.0):
    table, *_ = attack_table([NoAttack(), IPM(noise=noise), BFL(), RL()])
    kinds = jnp.array([1, 1]) if batched_kind else jnp.int32(1)
    ctx = jax.tree.map(lambda a: jnp.stack([a, a]), context())

    def both(kind, ctx, seed):
        state = table.init(N, D)
        plan, _ = table.plan(kind, 0, jax.random.key(seed), state, ctx, ACTION)
        rows, _ = table.craft(kind, 0, jax.random.key(seed), state, ctx, ACTION)
        return plan, rows

    batched = jax.vmap(both, (0 if batched_kind else None, 0, 0))
    return primitives(jax.make_jaxpr(batched)(kinds, ctx, jnp.arange(2)).jaxpr).count("cond")


def test_one_branch_runs_under_vmap_unless_the_kind_is_batched():
    # plan, craft, and whether its rows are made unlike
    assert conds(batched_kind=False) == 3
    assert conds(batched_kind=False, noise=0.0) == 2, "no attack draws noise: nothing is compiled"
    assert conds(batched_kind=True) == 0


def test_a_vmapped_round_keeps_its_second_pass_conditional():
    """Honest types must not pay for the long training of the learned attack's row."""
    one = group([NoAttack(), RL(noise=1.0)], which=0)
    batched = jax.vmap(lambda seed: play(one, seed=seed))
    names = primitives(jax.make_jaxpr(batched)(jnp.arange(2)).jaxpr)
    assert names.count("cond") == 4  # plan, second pass, craft, noise


def test_the_table_groups_by_kind_and_keeps_the_numbers_apart():
    attacks = [IPM(1.0), NoAttack(), IPM(5.0), RL(), RL(max_steps=3), IPM(2.0), RL(max_scale=4.0)]
    table, kinds, slots = attack_table(attacks)
    assert kinds == [0, 1, 0, 2, 3, 0, 2]
    assert slots == [0, 0, 1, 0, 0, 2, 1]
    assert len(table.kinds) == 4
    np.testing.assert_array_equal(table.kinds[0].scale, [1.0, 5.0, 2.0])
    assert table.second_pass_steps == 8 and table.action_size == 3


@pytest.mark.slow
def test_each_attack_of_a_table_is_itself():
    """Every registered attack in one table, each with two settings: as it crafts alone."""
    attacks = [make() for make in ATTACKS.values()]
    attacks += [jax.tree.map(lambda number: number * 0.5, attack) for attack in attacks]
    table, kinds, slots = attack_table(attacks)
    assert len(set(zip(kinds, slots, strict=True))) == len(attacks)
    ctx, state = context(), table.init(N, D)
    run = jax.jit(lambda k, s: table.craft(k, s, jax.random.key(0), state, ctx, ACTION)[0])
    for attack, kind, slot in zip(attacks, kinds, slots, strict=True):
        np.testing.assert_allclose(
            run(kind, slot)[:2], craft_by_table(attack, ctx)[:2], rtol=1e-5, atol=1e-6
        )


def test_any_untargeted_attack_mixes_with_any_backdoor():
    """Both at once: each group's rows change, nobody else's, and a
    backdoor's that knows nothing of the others as if it were alone."""
    untargeted = [make() for make in UNTARGETED.values()]
    backdoor = [make() for make in BACKDOOR.values()]

    def sent(u, b):
        groups = group(untargeted, u, first=0, count=2), group(backdoor, b, first=2, count=2)
        return np.asarray(play(*groups, action=ACTION).updates)

    honest = sent(0, 0)
    for b in range(1, len(backdoor)):
        alone = sent(0, b)
        for u in range(1, len(untargeted)):
            both = sent(u, b)
            assert np.isfinite(both).all()
            assert (np.abs(both[:2] - honest[:2]).max(axis=1) > 1e-4).all(), (u, b)
            if backdoor[b].knowledge == "own":
                np.testing.assert_array_equal(both[2:4], alone[2:4])
            np.testing.assert_array_equal(both[4:], honest[4:])
