"""What every registered rule promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators import AGGREGATORS, ClippedTrimmedMean, FLTrust
from metasg_jax.testing import received

N, D = 10, 7
ROBUST = sorted(set(AGGREGATORS) - {"mean"})
STEERED = [name for name, rule in AGGREGATORS.items() if rule.action_spec]

every_rule = pytest.mark.parametrize("name", AGGREGATORS)


def honest_round(seed=0, n=N, d=D, **fields):
    """Rows around a common direction, as a root update is; nothing is tied."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=d)
    rows = direction + 0.5 * rng.normal(size=(n, d))
    return received(rows, root_update=direction).replace(**fields)


def call(rule, got, action=None):
    state = rule.init(*got.updates.shape)
    return rule(jax.random.key(1), state, got, action)


@jax.jit
def jitted(rule, got, action=None):
    return call(rule, got, action)[0]


def update_of(rule, got, action=None):
    return np.asarray(jitted(rule, got, action))


def take(got, rows):
    return got.replace(
        updates=got.updates[rows], weights=got.weights[rows], client_ids=got.client_ids[rows]
    )


def float_fields(rule):
    return [f.name for f in dataclasses.fields(rule) if isinstance(getattr(rule, f.name), float)]


def without(rule, rejected):
    """The rule for the rows that are left: its Byzantine bound shrinks by the rejected ones."""
    return rule.replace(f=max(rule.f - rejected, 0.0)) if hasattr(rule, "f") else rule


@every_rule
def test_shape_and_type(name):
    rule, got = AGGREGATORS[name](), honest_round()
    update, state, info = call(rule, got)
    assert update.shape == (D,) and update.dtype == jnp.float32
    assert jax.tree.structure(state) == jax.tree.structure(rule.init(N, D))
    assert isinstance(info, dict)
    assert np.abs(update).max() > 0.01


@every_rule
def test_jit_equals_eager(name):
    rule, got = AGGREGATORS[name](), honest_round()
    eager, _, _ = call(rule, got)
    np.testing.assert_allclose(update_of(rule, got), eager, rtol=1e-5)


@every_rule
def test_vmap_equals_loop(name):
    rule, rounds = AGGREGATORS[name](), [honest_round(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rounds)
    batched = jax.vmap(lambda got: call(rule, got)[0])(stacked)
    loop = np.stack([update_of(rule, got) for got in rounds])
    np.testing.assert_allclose(batched, loop, rtol=1e-5, atol=1e-6)


@every_rule
def test_no_retrace_for_an_equal_rule_or_another_number(name):
    traces = []

    @jax.jit
    def run(rule, got):
        traces.append(1)
        return call(rule, got)[0]

    rule = AGGREGATORS[name]()
    run(rule, honest_round(0))
    run(AGGREGATORS[name](), honest_round(1))
    for field in float_fields(rule):
        run(rule.replace(**{field: 0.4}), honest_round(2))
    assert len(traces) == 1


@every_rule
def test_order_of_the_rows_does_not_matter(name):
    rule = AGGREGATORS[name]()
    got = honest_round(weights=jnp.arange(1.0, N + 1))
    order = np.random.default_rng(3).permutation(N)
    np.testing.assert_allclose(
        update_of(rule, take(got, order)), update_of(rule, got), rtol=1e-5, atol=1e-6
    )


@every_rule
@pytest.mark.parametrize("rejected", [[4], [0, 9], [1, 2, 3]])
@pytest.mark.parametrize("poison", ["nan", "inf", "-inf", "1e30", "one nan", "weight 0"])
def test_absent_rows_are_as_if_never_sent(name, poison, rejected):
    rule, got = AGGREGATORS[name](), honest_round(weights=jnp.arange(1.0, N + 1))
    rows = jnp.asarray(rejected)
    if poison == "weight 0":
        bad = got.replace(updates=got.updates.at[rows].set(3.0), weights=got.weights.at[rows].set(0))
    elif poison == "one nan":
        bad = got.replace(updates=got.updates.at[rows, 2].set(jnp.nan))
    else:
        bad = got.replace(updates=got.updates.at[rows].set(float(poison)))
    rest = take(got, np.delete(np.arange(N), rejected))
    expected = update_of(without(rule, len(rejected)), rest)
    np.testing.assert_allclose(update_of(rule, bad), expected, rtol=1e-5, atol=1e-6)


@every_rule
@pytest.mark.parametrize("weight", [np.nan, np.inf, -1.0])
def test_a_weight_that_is_no_positive_number_makes_a_row_absent(name, weight):
    rule, got = AGGREGATORS[name](), honest_round()
    bad = got.replace(weights=got.weights.at[3].set(weight))
    absent = got.replace(weights=got.weights.at[3].set(0.0))
    np.testing.assert_array_equal(update_of(rule, bad), update_of(rule, absent))


def every_action():
    """Each rule as it is, and each steered rule at the corners of its actions."""
    for name, rule in AGGREGATORS.items():
        yield pytest.param(name, None, id=name)
        size = len(rule.action_spec)
        for corner in np.ndindex(*(2,) * size) if size else ():
            action = 2.0 * np.array(corner) - 1
            yield pytest.param(name, jnp.asarray(action), id=f"{name}{action.tolist()}")


@pytest.mark.parametrize(("name", "action"), list(every_action()))
@pytest.mark.parametrize("rows", ["all absent", "all zero", "most zero", "one present"])
def test_degenerate_rounds_are_finite(name, action, rows):
    rule, got = AGGREGATORS[name](), honest_round()
    if rows == "all absent":
        got = got.replace(weights=jnp.zeros((N,)))
    elif rows == "one present":
        got = got.replace(weights=jnp.zeros((N,)).at[2].set(1.0))
    else:
        got = got.replace(updates=got.updates.at[0 if rows == "all zero" else 3 :].set(0.0))
    update = update_of(rule, got, action)
    assert np.isfinite(update).all()
    if rows.startswith("all"):
        np.testing.assert_array_equal(update, 0.0)


@pytest.mark.parametrize(("name", "action"), list(every_action()))
@pytest.mark.parametrize("size", [1e9, 1e18, 6.6e18])
def test_huge_rows_that_still_have_a_norm_give_a_finite_update(name, action, size):
    """Squares of such rows are finite, sums of two squares need not be."""
    rule, got = AGGREGATORS[name](), honest_round()
    got = got.replace(updates=got.updates.at[:2].set(size))
    assert np.isfinite(update_of(rule, got, action)).all()


def attacked(size):
    got = honest_round()
    return got.replace(updates=got.updates.at[:2].set(size))


@pytest.mark.parametrize("size", [1e6, -1e6, 1e9, 6.6e18])
@pytest.mark.parametrize("name", ROBUST)
def test_two_of_ten_rows_do_not_break_a_robust_rule(name, size):
    update = update_of(AGGREGATORS[name](), attacked(size))
    honest = np.linalg.norm(honest_round().updates, axis=1)
    assert np.linalg.norm(update) <= 1.01 * honest.max()


@pytest.mark.parametrize("size", [1e6, -1e6])
@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_order_statistics_stay_within_the_honest_range(name, size):
    update = update_of(AGGREGATORS[name](), attacked(size))
    honest = np.asarray(honest_round().updates[2:])
    assert (update >= honest.min(axis=0)).all() and (update <= honest.max(axis=0)).all()


def test_the_mean_breaks():
    assert np.linalg.norm(update_of(AGGREGATORS["mean"](), attacked(1e6))) > 1e5


@every_rule
def test_a_weighted_rule_says_so_and_the_others_ignore_weights(name):
    rule, got = AGGREGATORS[name](), honest_round()
    weighted = update_of(rule, got.replace(weights=jnp.arange(1.0, N + 1)))
    unchanged = np.allclose(weighted, update_of(rule, got), rtol=1e-5)
    assert unchanged == (name not in ("mean", "norm_bound"))


@pytest.mark.parametrize("name", STEERED)
def test_without_an_action_the_fields_of_the_same_names_act(name):
    rule, got = AGGREGATORS[name](), attacked(30.0)
    fields = {knob: 0.3 - 0.5 * i for i, knob in enumerate(rule.action_spec)}
    action = jnp.asarray(list(fields.values()))
    np.testing.assert_allclose(
        update_of(rule, got, action), update_of(rule.replace(**fields), got), rtol=1e-5
    )
    assert not np.allclose(update_of(rule, got, action), update_of(rule, got), rtol=1e-3)


@pytest.mark.parametrize("name", sorted(set(AGGREGATORS) - set(STEERED)))
def test_a_fixed_rule_ignores_actions(name):
    rule, got = AGGREGATORS[name](), honest_round()
    np.testing.assert_array_equal(update_of(rule, got, jnp.ones((2,))), update_of(rule, got))


def test_no_clip_and_no_trim_is_the_mean():
    got = attacked(1e3)
    got = got.replace(weights=got.weights.at[5].set(0.0))
    update = update_of(ClippedTrimmedMean(), got, jnp.array([1.0, -1.0]))
    expected = update_of(AGGREGATORS["mean"](), got)
    np.testing.assert_allclose(update, expected, rtol=1e-6)


def test_actions_beyond_the_range_act_as_its_ends():
    got = attacked(1e3)
    for beyond, end in (([4.0, -4.0], [1.0, -1.0]), ([-4.0, 4.0], [-1.0, 1.0])):
        np.testing.assert_array_equal(
            update_of(ClippedTrimmedMean(), got, jnp.array(beyond)),
            update_of(ClippedTrimmedMean(), got, jnp.array(end)),
        )


@pytest.mark.parametrize("clip", [-1.0, 0.2, 1.0])
def test_the_fractional_trim_is_continuous(clip):
    """Neighbours on a fine grid differ by what the grid's step allows, at whole trims too."""
    got = attacked(10.0)
    trims = jnp.linspace(-1.0, 1.0, 2001)
    actions = jnp.stack([jnp.full_like(trims, clip), trims], axis=1)
    path = jax.vmap(jitted, (None, None, 0))(ClippedTrimmedMean(), got, actions)
    jumps = np.abs(np.diff(path, axis=0)).max()
    assert 0 < jumps < 0.02


def test_the_clip_bounds_every_norm_by_its_multiple_of_the_median_norm():
    """With all rows alike but for their length, the untrimmed mean's norm is the mean of the clipped."""
    lengths = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    got = received(lengths[:, None] * np.array([[0.6, 0.8]]))
    for clip in (-1.0, -0.5, 0.0, 0.5, 0.99):
        update, _, info = call(ClippedTrimmedMean(), got, jnp.array([clip, -1.0]))
        multiple = 0.3 * (10 / 0.3) ** ((clip + 1) / 2)
        np.testing.assert_allclose(info["clip_multiple"], multiple, rtol=1e-5)
        expected = np.minimum(lengths, multiple * 3.0).mean()
        np.testing.assert_allclose(np.linalg.norm(update), expected, rtol=1e-5)


def test_fltrust_without_root_update_says_what_is_missing():
    with pytest.raises(ValueError, match="root_update"):
        call(FLTrust(), received([[1.0]]))
