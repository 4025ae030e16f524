"""What every registered rule promises, alone and behind a pre-aggregator."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators import AGGREGATORS, ClippedTrimmedMean, Composed, FLTrust
from metasg_jax.game.make import make_rule
from metasg_jax.pre_aggregators import PRE_AGGREGATORS
from tests.aggregators.head_model import rule_of
from tests.rounds import honest_round, round_of, take, with_rows, with_weights

N, D = 10, 7
RISING = np.arange(1.0, N + 1)
# each pre-aggregator once, and a steered rule behind one
# five buckets are too few for Krum, if two are malicious
BEHIND = dict.fromkeys(PRE_AGGREGATORS, "krum") | {"bucketing": "median"}
COMPOSED = [*(f"{pre}+{rule}" for pre, rule in BEHIND.items()), "nnm+clipped_trimmed_mean"]
RULES = {name: functools.partial(rule_of, name, D) for name in AGGREGATORS}
RULES |= {name: functools.partial(make_rule, name, N, 0.2) for name in COMPOSED}
# crfl bounds the model, not the update; client_trust without an action trusts everybody
ROBUST = sorted(set(RULES) - {"mean", "crfl", "client_trust"})
# what these do depends on a draw, and that on a row's place
SHUFFLING = {"bucketing+median"}
WEIGHTED = {name for name, rule in AGGREGATORS.items() if rule.weighted}
NOISY = {name for name in RULES if hasattr(RULES[name](), "sigma")}
STEERED = [name for name in RULES if RULES[name]().action_spec]

# what costs most to compile twice; other contracts, and oracles, are asked of these every time
DEAR = {
    "deepsight", "bulyan", "mda", "geometric_median", "meamed", "multi_krum", "flame", "foolsgold",
    "trusted_trimmed_mean", *(set(COMPOSED) - {"nnm+krum"}),
}  # fmt: skip

every_rule = pytest.mark.parametrize("name", RULES)
every_rule_dear_ones_slowly = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in DEAR)) for n in RULES]
)
every_orderless_rule = pytest.mark.parametrize("name", [n for n in RULES if n not in SHUFFLING])


def call(rule, got, action=None):
    return rule(jax.random.key(1), rule.init(*got.updates.shape), got, action)


@jax.jit
def jitted(rule, got, action=None):
    return call(rule, got, action)


def update_of(rule, got, action=None):
    return np.asarray(jitted(rule, got, action)[0])


def rejected_by(rule, got):
    count = jitted(rule, got)[2]["rejected"]
    assert count.shape == () and jnp.issubdtype(count.dtype, jnp.integer)
    return int(count)


def attacked(size):
    return with_rows(honest_round(), slice(2), size)


def without(rule, rejected):
    """The rule for the rows that are left: its Byzantine bound shrinks by the rejected ones."""
    if isinstance(rule, Composed):
        pre = tuple(without(part, rejected) for part in rule.pre)
        return Composed(pre, without(rule.rule, rejected))
    return rule.replace(f=max(rule.f - rejected, 0.0)) if hasattr(rule, "f") else rule


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


def whole_action(rule, knobs, n=10):
    """Knobs, behind trust in every other row where the rule decides about each."""
    trust = [(-1.0) ** i for i in range(n)] if rule.per_client else []
    return jnp.array([*trust, *knobs])


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


# 6.6e18 sqrt(7) is 1.75e19: the square is finite, the sum of two such squares is not
@pytest.mark.parametrize("size", [1e6, -1e6, 1e9, 6.6e18])
@pytest.mark.parametrize("name", ROBUST)
def test_two_of_ten_rows_do_not_break_a_robust_rule(name, size):
    update = update_of(RULES[name](), attacked(size))
    honest = np.linalg.norm(honest_round().updates, axis=1)
    assert np.linalg.norm(update) <= 1.01 * honest.max()


@pytest.mark.parametrize("size", [1e6, -1e6, 6.6e18])
@pytest.mark.parametrize("name", ["median", "trimmed_mean", "meamed", "bulyan"])
def test_order_statistics_stay_within_the_honest_range(name, size):
    update = update_of(RULES[name](), attacked(size))
    honest, slack = honest_round().updates[2:], 1e-6
    assert (update >= honest.min(axis=0) - slack).all()
    assert (update <= honest.max(axis=0) + slack).all()


def test_the_mean_breaks():
    """The control of the two tests above."""
    assert np.linalg.norm(update_of(AGGREGATORS["mean"](), attacked(1e6))) > 1e5


def near(times, coordinates=False):
    """At most ``times`` the diameter of the honest rows away from their mean.

    Where a rule works on one coordinate at a time, that holds of each, hence sqrt(d) in all.
    """

    def bound(rule, honest, got):
        diameter = np.linalg.norm(honest[:, None] - honest[None], axis=2).max()
        return honest.mean(axis=0), times * diameter * (np.sqrt(D) if coordinates else 1.0)

    return bound


def within(radius):
    """At most that long, with ``radius(rule, the honest rows' largest norm, round)``."""

    def bound(rule, honest, got):
        return np.zeros(D), radius(rule, np.linalg.norm(honest, axis=1).max(), got)

    return bound


def noise(sigma):
    """A normal vector's norm; 4 deviations of it above sqrt(d)."""
    return sigma * (np.sqrt(D) + 4)


# What a rule keeps to if two of its ten rows are malicious (Bulyan, one); none for the mean.
# A row that Krum chooses has five of its six nearest among the honest, and no larger score than
# one of these: 6 diameters^2. So it is sqrt(6 / 5) diameters from an honest row, 2.1 from the mean.
BOUNDS = {
    "median": near(1, coordinates=True),
    "trimmed_mean": near(1, coordinates=True),
    # the values nearest to the median: as near as the honest ones
    "meamed": near(2, coordinates=True),
    "bulyan": near(2, coordinates=True),
    "krum": near(2.1),
    "multi_krum": near(2.1),
    "mda": near(2),
    # 2 (n - f) / (n - 2f) times the largest distance of an honest row: Cohen et al. 2016, lemma 24
    "geometric_median": near(2.7),
    "clipped_trimmed_mean": within(lambda rule, honest, got: np.sqrt(D) * honest),
    "trusted_trimmed_mean": within(
        lambda rule, honest, got: 0.5 * np.sqrt(D) * honest + 0.5 * np.linalg.norm(got.root_update)
    ),
    "clipped_median": within(lambda rule, honest, got: np.sqrt(D) * rule.max_norm),
    "norm_bound": within(lambda rule, honest, got: rule.max_norm),
    "weak_dp": within(lambda rule, honest, got: rule.max_norm + noise(rule.sigma)),
    # of the model, here the same as of the update: the global model is 0
    "crfl": within(lambda rule, honest, got: rule.max_norm + noise(rule.sigma)),
    # from the last result, here 0
    "centered_clip": within(lambda rule, honest, got: rule.iterations * rule.max_norm),
    "fltrust": within(lambda rule, honest, got: np.linalg.norm(got.root_update)),
    "sign_majority": within(lambda rule, honest, got: rule.scale * np.sqrt(D)),
    # only because malicious rows are alike here: a far row that is like no other is bounded by none
    "foolsgold": within(lambda rule, honest, got: honest),
    # the median of all norms is at most the honest maximum
    "flame": within(lambda rule, honest, got: honest * (1 + noise(rule.noise))),
    "deepsight": within(lambda rule, honest, got: honest),
    # a mixed honest row is a diameter from the row itself: three between two of them, one more
    "nnm+krum": near(2.1 * 3 + 1),
    "clipping+krum": within(lambda rule, honest, got: rule.pre[0].max_norm),
    "bucketing+median": near(1, coordinates=True),
    "nnm+clipped_trimmed_mean": within(lambda rule, honest, got: 3 * np.sqrt(D) * honest),
}
HOSTILE = {
    "nan": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
    "1e38": 1e38,
    "zeros": 0.0,
    "identical": 1e6 * np.array([1.0, -1.0, 2.0, -2.0, 0.5, 1.5, -3.0]),
    "identical and near": -3.0,
    "copies of an honest row": honest_round().updates[7],
}


def hostile_round(rule, kind):
    """(the round, its honest rows): the first rows are malicious, as many as are tolerated."""
    malicious, got = int(getattr(rule, "f", 2)), honest_round()
    return with_rows(got, slice(malicious), HOSTILE[kind]), got.updates[malicious:]


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", BOUNDS)
def test_hostile_rows_move_a_rule_within_its_bound(name, kind):
    rule = RULES[name]()
    got, honest = hostile_round(rule, kind)
    centre, radius = BOUNDS[name](rule, honest, got)
    assert np.linalg.norm(update_of(rule, got) - centre) <= radius * (1 + 1e-3)


def test_every_rule_but_the_mean_has_a_bound():
    """And ``client_trust``, which is the mean until somebody says whom to trust."""
    assert set(BOUNDS) == set(RULES) - {"mean", "client_trust"}


def test_no_bound_holds_for_the_mean():
    """The control: two finite rows are enough, and two that aren't finite do nothing."""
    mean = RULES["mean"]()
    for name, bound in BOUNDS.items():
        rule = RULES[name]()
        got, honest = hostile_round(rule, "identical")
        centre, radius = bound(rule, honest, got)
        assert np.linalg.norm(update_of(mean, got) - centre) > 100 * radius, name
    for kind in ("nan", "inf", "-inf", "1e38"):
        got, honest = hostile_round(mean, kind)
        np.testing.assert_allclose(update_of(mean, got), honest.mean(axis=0), rtol=1e-5)


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
