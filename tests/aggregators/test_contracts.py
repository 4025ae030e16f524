"""What every registered rule promises, alone and behind a pre-aggregator."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators import AGGREGATORS, ClippedTrimmedMean, Composed, FLTrust
from tests.aggregators.every_rule import (
    NOISY,
    RISING,
    RULES,
    STEERED,
    WEIGHTED,
    D,
    N,
    attacked,
    call,
    every_orderless_rule,
    every_rule,
    every_rule_dear_ones_slowly,
    jitted,
    rejected_by,
    update_of,
    whole_action,
    without,
)
from tests.rounds import honest_round, round_of, take, with_rows, with_weights


def test_rules_differ_as_pytrees():
    """Else jit may hand one rule the program of another: its cache compares tree structures."""
    for a, b in itertools.combinations(RULES.values(), 2):
        assert jax.tree.structure(a()) != jax.tree.structure(b()), (a, b)


@every_rule
def test_shape_and_type(name):
    rule, got = RULES[name](), honest_round()
    update, state, info = jitted(rule, got)
    assert update.shape == (D,) and update.dtype == jnp.float32
    assert jax.tree.structure(state) == jax.tree.structure(rule.init(N, D))
    assert isinstance(info, dict)
    # a sign has the length of a step of the optimiser
    assert np.abs(update).max() > (1e-4 if name == "sign_majority" else 0.01)


@every_rule_dear_ones_slowly
def test_jit_equals_eager(name):
    rule, got = RULES[name](), jax.tree.map(jnp.asarray, honest_round())
    eager, _, _ = call(rule, got)
    np.testing.assert_allclose(update_of(rule, got), eager, rtol=1e-5, atol=1e-6)


@every_rule_dear_ones_slowly
def test_vmap_equals_loop(name):
    rule, rounds = RULES[name](), [honest_round(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rounds)
    batched = jax.jit(jax.vmap(lambda *a: jitted(*a)[0], (None, 0)))(rule, stacked)
    loop = np.stack([update_of(rule, got) for got in rounds])
    np.testing.assert_allclose(batched, loop, rtol=1e-5, atol=1e-6)


@every_rule
def test_no_retrace_for_an_equal_rule_or_another_number(name):
    traces = []

    @jax.jit
    def run(rule, got):
        traces.append(1)
        return call(rule, got)[0]

    rule = RULES[name]()
    # traced, not compiled: a call compiles what its trace is kept for
    run.trace(rule, honest_round(0))
    run.trace(RULES[name](), honest_round(1))
    floats, structure = jax.tree.flatten(rule)
    for i in range(len(floats)):
        changed = [*floats[:i], 0.4, *floats[i + 1 :]]
        run.trace(jax.tree.unflatten(structure, changed), honest_round(2))
    assert len(traces) == 1


@every_orderless_rule
def test_order_of_the_rows_does_not_matter(name):
    rule, got = RULES[name](), honest_round(weights=RISING)
    order = np.random.default_rng(3).permutation(N)
    shuffled = update_of(rule, take(got, order))
    np.testing.assert_allclose(shuffled, update_of(rule, got), rtol=1e-5, atol=1e-6)


@every_orderless_rule
@pytest.mark.parametrize("rejected", [pytest.param([4], marks=pytest.mark.slow), [1, 2, 9]])
@pytest.mark.parametrize("poison", ["nan", "inf", "-inf", "1e38", "one nan", "weight 0"])
def test_absent_rows_are_as_if_never_sent(name, poison, rejected):
    rule, got = RULES[name](), honest_round(weights=RISING)
    if poison == "weight 0":
        bad = with_weights(with_rows(got, rejected, 3.0), rejected, 0.0)
    elif poison == "one nan":
        bad = with_rows(got, (rejected, 2), np.nan)
    else:
        bad = with_rows(got, rejected, float(poison))
    rest = take(got, np.delete(np.arange(N), rejected))
    expected = update_of(without(rule, len(rejected)), rest)
    np.testing.assert_allclose(update_of(rule, bad), expected, rtol=1e-5, atol=1e-6)
    # a client that wasn't asked to send is no attack
    assert rejected_by(rule, bad) == (0 if poison == "weight 0" else len(rejected))


@every_rule
@pytest.mark.parametrize("weight", [np.nan, np.inf, -1.0])
def test_a_weight_that_is_no_positive_number_makes_a_row_absent(name, weight):
    rule, got = RULES[name](), honest_round()
    absent = update_of(rule, with_weights(got, 3, 0.0))
    np.testing.assert_array_equal(update_of(rule, with_weights(got, 3, weight)), absent)
    assert rejected_by(rule, with_weights(got, 3, weight)) == 1


@every_rule
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e38])
def test_a_round_of_bad_rows_only_is_rejected_as_a_whole(name, poison):
    rule, got = RULES[name](), with_rows(honest_round(), slice(None), poison)
    np.testing.assert_array_equal(update_of(rule, got), 0.0)
    assert rejected_by(rule, got) == N


@every_rule
def test_rejected_counts_each_bad_row_once(name):
    """Three of ten rows are bad, one of them not sent, and one has a bad weight."""
    got = with_rows(honest_round(), ([0, 1, 2], 3), [np.nan, -np.inf, 1e38])
    got = with_weights(with_weights(got, 2, 0.0), 5, np.nan)
    assert rejected_by(RULES[name](), got) == 3
    assert rejected_by(RULES[name](), honest_round()) == 0


def actions_of(rule):
    """None, and the corners of its actions where a policy steers the rule."""
    size = len(rule.action_spec)
    corners = itertools.product([-1.0, 1.0], repeat=size) if size else ()
    return [None, *(whole_action(rule, corner) for corner in corners)]


@every_rule
@pytest.mark.parametrize("rows", ["all absent", "all zero", "most zero", "one present"])
def test_degenerate_rounds_are_finite(name, rows):
    rule, got = RULES[name](), honest_round()
    got = {
        "all absent": with_weights(got, slice(None), 0.0),
        "all zero": with_rows(got, slice(None), 0.0),
        "most zero": with_rows(got, slice(3, None), 0.0),
        "one present": with_weights(got, slice(1, None), 0.0),
    }[rows]
    for action in actions_of(rule):
        update = update_of(rule, got, action)
        assert np.isfinite(update).all(), action
        if rule.per_client and action is not None and action[-1] > -1:
            continue  # the server's own update is asked for, and is there
        if rows == "all absent" or (rows == "all zero" and name not in NOISY):
            np.testing.assert_array_equal(update, 0.0)


@every_rule
def test_huge_rows_that_still_have_a_norm_give_a_finite_update(name):
    rule = RULES[name]()
    for action in actions_of(rule):
        assert np.isfinite(update_of(rule, attacked(6.6e18), action)).all(), action


@every_rule
def test_weights_count_in_means_only(name):
    rule = RULES[name]()
    weighted = update_of(rule, honest_round(weights=RISING))
    unchanged = np.allclose(weighted, update_of(rule, honest_round()), rtol=1e-5)
    assert unchanged == (name not in WEIGHTED)


@pytest.mark.parametrize("name", STEERED)
def test_without_an_action_the_fields_of_the_same_names_act(name):
    rule, got = RULES[name](), attacked(30.0)
    fields = {knob: 0.3 - 0.5 * i for i, knob in enumerate(rule.action_spec)}
    trust = [1.0] * 10 if rule.per_client else []
    steered = update_of(rule, got, jnp.array([*trust, *fields.values()]))
    if isinstance(rule, Composed):
        fixed = rule.replace(rule=rule.rule.replace(**fields))
    else:
        fixed = rule.replace(**fields)
    np.testing.assert_allclose(steered, update_of(fixed, got), rtol=1e-5)
    assert not np.allclose(steered, update_of(rule, got), rtol=1e-3)


@pytest.mark.parametrize("name", sorted(set(RULES) - set(STEERED)))
def test_a_fixed_rule_ignores_actions(name):
    rule, got = RULES[name](), honest_round()
    steered = update_of(rule, got, jnp.array([0.5, -0.5]))
    np.testing.assert_array_equal(steered, update_of(rule, got))


@pytest.mark.parametrize("others", [(1.0, -1.0), (-0.3, 0.4)])
def test_trust_goes_from_the_steered_rule_to_fltrust(others):
    """The ends exactly, and the middle half way."""
    rule, got = AGGREGATORS["trusted_trimmed_mean"](), attacked(30.0)
    steered = update_of(ClippedTrimmedMean(), got, jnp.array(others))
    trusted = update_of(AGGREGATORS["fltrust"](), got)
    at = [update_of(rule, got, jnp.array([*others, trust])) for trust in (-1.0, 0.0, 1.0)]
    np.testing.assert_array_equal(at[0], steered)
    np.testing.assert_array_equal(at[2], trusted)
    np.testing.assert_allclose(at[1], (steered + trusted) / 2, rtol=1e-5, atol=1e-6)


def test_no_clip_and_no_trim_is_the_mean():
    got = with_weights(attacked(1e3), 5, 0.0)
    update = update_of(ClippedTrimmedMean(), got, jnp.array([1.0, -1.0]))
    np.testing.assert_allclose(update, update_of(AGGREGATORS["mean"](), got), rtol=1e-6)


@pytest.mark.parametrize("end", [[1.0, -1.0], [-1.0, 1.0]])
def test_actions_beyond_the_range_act_as_its_ends(end):
    at_end = update_of(ClippedTrimmedMean(), attacked(1e3), jnp.array(end))
    beyond = update_of(ClippedTrimmedMean(), attacked(1e3), 4 * jnp.array(end))
    np.testing.assert_array_equal(beyond, at_end)


@pytest.mark.parametrize("clip", [-1.0, 0.2, 1.0])
def test_the_fractional_trim_is_continuous(clip):
    """Neighbours on a fine grid differ by what the grid's step allows, at whole trims too."""
    trims = np.linspace(-1.0, 1.0, 2001)
    actions = np.stack([np.full_like(trims, clip), trims], axis=1).astype(np.float32)
    path, _, _ = jax.vmap(jitted, (None, None, 0))(ClippedTrimmedMean(), attacked(10.0), actions)
    # a step takes 0.00225 rows off each side, and rows differ by less than 30
    assert 0 < np.abs(np.diff(path, axis=0)).max() < 0.1
    whole = np.abs(np.diff(path[::250], axis=0)).max(axis=1)
    assert (whole[:-1] > 1e-3).all()


def test_the_clip_bounds_every_norm_by_its_multiple_of_the_median_norm():
    """Rows differ in length only, so the norm of their mean is the mean of the clipped norms."""
    lengths = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    got = round_of(lengths[:, None] * np.array([[0.6, 0.8]]))
    for clip in (-1.0, -0.5, 0.0, 0.5, 0.99):
        update = update_of(ClippedTrimmedMean(), got, jnp.array([clip, -1.0]))
        multiple = 0.3 * (10 / 0.3) ** ((clip + 1) / 2)
        expected = np.minimum(lengths, multiple * 3.0).mean()
        np.testing.assert_allclose(np.linalg.norm(update), expected, rtol=1e-5)


def test_fltrust_without_root_update_says_what_is_missing():
    with pytest.raises(ValueError, match="root_update"):
        call(FLTrust(), round_of([[1.0]]))
