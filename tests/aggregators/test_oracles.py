"""Every registered rule against a plain NumPy statement of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators import (
    AGGREGATORS,
    CRFL,
    FLAME,
    Bulyan,
    CenteredClip,
    ClippedTrimmedMean,
    FoolsGold,
    GeometricMedian,
    Krum,
    MultiKrum,
    WeakDP,
)
from metasg_jax.numerics import MAX_UNROLLED
from tests import oracles
from tests.aggregators.head_model import rule_of
from tests.aggregators.oracles import RULES, foolsgold_alpha
from tests.rounds import round_of

# odd, even, powers of two or not
SIZES = [3, 4, 7, 10, 11, 20]
# a compilation of each rule a size
SLOW_SIZES = {3, 4, 11, 20}


def rows_of(kind, n, seed, d=6):
    rng = np.random.default_rng(seed)
    if kind == "distinct":
        return (rng.normal(size=d) + rng.normal(size=(n, d))).astype(np.float32)
    if kind == "ties":  # small whole numbers: equal values, equal rows, exact arithmetic
        rows = rng.integers(-2, 3, size=(n, d)).astype(np.float32)
        rows[1] = rows[0]
        return rows + (np.abs(rows).sum(axis=1, keepdims=True) == 0)
    rows = rng.normal(size=(n, d)).astype(np.float32)
    rows[: n // 4] *= 1e3
    return rows


def expected(name, rule, rows, weights, root):
    fields = {f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)}
    return RULES[name](rows.astype(np.float64), np.float64(weights), np.float64(root), **fields)


@jax.jit
def run(rule, got):
    return rule(jax.random.key(0), rule.init(*got.updates.shape), got)


def check(name, rule, rows, weights=None):
    weights = np.ones(len(rows)) if weights is None else weights
    root = rows[0] + 0.5 * np.roll(rows[-1], 1)
    update, _, _ = run(rule, round_of(rows, weights, root))
    want = expected(name, rule, rows, weights, root)
    np.testing.assert_allclose(update, want, rtol=1e-4, atol=1e-5 * np.abs(want).max() + 1e-12)


def fitting(rule, n):
    """The rule without its noise, and with as large an ``f`` as it allows for n clients."""
    for noise in ("sigma", "noise"):
        if hasattr(rule, noise):
            return rule.replace(**{noise: 0.0})
    return rule.replace(f=min(rule.f, float((n - 3) // 4))) if isinstance(rule, Bulyan) else rule


def test_every_registered_rule_has_an_oracle():
    assert set(RULES) == set(AGGREGATORS)


@pytest.mark.parametrize(
    "n", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW_SIZES)) for n in SIZES]
)
@pytest.mark.parametrize("name", AGGREGATORS)
def test_rule_equals_its_oracle(name, n):
    """One test for all kinds of rows: they share a compilation."""
    for kind in ("distinct", "ties", "outliers"):
        for seed in range(3):
            rows = rows_of(kind, n, 100 * n + seed)
            check(
                name,
                fitting(rule_of(name, 6), n),
                rows,
                np.random.default_rng(seed).integers(1, 9, n),
            )


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("trimmed_mean", {"beta": 0.0}),
        ("trimmed_mean", {"beta": 0.1}),
        ("trimmed_mean", {"beta": 0.3}),  # 0.3 * 10 is 3 although 0.3f * 10 is not
        ("trimmed_mean", {"beta": 0.45}),
        ("norm_bound", {"max_norm": 0.1}),
        ("norm_bound", {"max_norm": 1e6}),
        ("clipped_median", {"max_norm": 0.1}),
        ("clipped_median", {"max_norm": 1e6}),
        ("krum", {"f": 0.0}),
        ("krum", {"f": 1.0}),
        ("krum", {"f": 4.0}),
        ("multi_krum", {"f": 0.0}),
        ("multi_krum", {"f": 3.0}),
        ("multi_krum", {"f": 2.0, "m": 1.0}),
        ("multi_krum", {"f": 2.0, "m": 5.0}),
        ("multi_krum", {"f": 2.0, "m": 99.0}),
        ("geometric_median", {"smoothing": 0.3}),
        ("meamed", {"f": 0.0}),
        ("meamed", {"f": 3.0}),
        ("centered_clip", {"max_norm": 0.1}),
        ("centered_clip", {"max_norm": 2.0, "iterations": 5}),
        ("centered_clip", {"max_norm": 1e6}),
        ("sign_majority", {"scale": 0.5}),
        ("bulyan", {"f": 0.0}),
        ("mda", {"f": 0.0}),
        ("mda", {"f": 3.0}),
        ("weak_dp", {"max_norm": 0.1}),
        ("crfl", {"max_norm": 0.1}),
        ("crfl", {"max_norm": 1e6}),
        ("clipped_trimmed_mean", {"clip": 1.0, "trim": -1.0}),
        ("clipped_trimmed_mean", {"clip": 1.0, "trim": 1.0}),
        ("clipped_trimmed_mean", {"clip": -1.0, "trim": -0.3}),
        ("clipped_trimmed_mean", {"clip": 0.25, "trim": 0.6}),
        ("client_trust", {"clip": -0.5}),
        ("client_trust", {"clip": 0.25, "trim": 0.6, "own": -0.4}),
    ],
)
@pytest.mark.parametrize("n", [7, 10])
def test_other_settings_equal_the_oracle(name, fields, n):
    check(name, fitting(AGGREGATORS[name](**fields), n), rows_of("outliers", n, n))


@pytest.mark.parametrize("f", [1.0, 2.0, 4.0])
def test_bulyan_scores_again_after_each_choice(f):
    """19 clients, as 4f + 3 asks for f = 4; some rounds choose other rows than one scoring does."""
    differ = 0
    for seed in range(5):
        rows = rows_of("outliers", 19, seed)
        update, _, info = run(Bulyan(f=f), round_of(rows))
        want = expected("bulyan", Bulyan(f=f), rows, np.ones(19), rows[0])
        np.testing.assert_allclose(update, want, rtol=1e-4, atol=1e-5)
        assert info["selected"].sum() == 19 - 2 * f
        once = run(MultiKrum(f=f, m=19 - 2 * f), round_of(rows))[2]["selected"]
        differ += (once != info["selected"]).any()
    assert differ


@pytest.mark.parametrize("f", [0.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_krum_when_clients_almost_agree(seed, f):
    """Mean 1e3, differences 1e-3: squares of size 1e6 have no digit left for them in float32."""
    rng = np.random.default_rng(seed)
    rows = (1e3 + 1e-3 * rng.normal(size=(10, 40))).astype(np.float32)
    _, _, info = run(Krum(f=f), round_of(rows))
    assert info["selected"] == np.argmin(oracles.krum_scores(rows.astype(np.float64), f))


@pytest.mark.parametrize("size", [1e4, 1e6, 1e12, 6.6e18])
@pytest.mark.parametrize("seed", range(3))
def test_krum_is_not_blinded_by_outliers(seed, size):
    """Two far rows must not cost the digits that tell the honest rows apart."""
    rows = np.random.default_rng(seed).normal(size=(10, 7)).astype(np.float32)
    rows[[3, 8]] = size
    _, _, info = run(Krum(f=2.0), round_of(rows))
    assert info["selected"] == np.argmin(oracles.krum_scores(rows.astype(np.float64), 2))


def test_krum_takes_the_first_of_equals():
    rows = np.repeat([[5.0, 5.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], [1, 2, 3, 1], axis=0)
    assert run(Krum(f=1.0), round_of(rows))[2]["selected"] == 1


def test_multi_krum_takes_the_first_of_equals():
    """Four rows at the corners of a square have equal scores; the first two are the best two."""
    rows = [[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]]
    _, _, info = run(MultiKrum(f=1.0, m=2.0), round_of(rows))
    assert info["selected"].tolist() == [True, True, False, False]


def test_multi_krum_of_one_is_krum():
    got = round_of(rows_of("outliers", 10, 3))
    update, _, _ = run(MultiKrum(f=2.0, m=1.0), got)
    np.testing.assert_array_equal(update, run(Krum(f=2.0), got)[0])


@pytest.mark.parametrize("n", [11, MAX_UNROLLED + 3])
def test_the_geometric_median_minimises_the_sum_of_distances(n):
    rows = rows_of("outliers", n, 8).astype(np.float64)
    update, _, info = run(GeometricMedian(), round_of(rows))
    assert info["iterations"] < 100
    z = np.float64(update)
    units = (z[None] - rows) / np.linalg.norm(z[None] - rows, axis=1, keepdims=True)
    # the gradient, a sum of n unit vectors
    assert np.linalg.norm(units.sum(axis=0)) < 1e-4


@pytest.mark.parametrize(("times", "rtol"), [(1, 1e-6), (10, 2e-6)])
def test_the_geometric_median_is_where_most_rows_are(times, rtol):
    counts = times * np.array([4, 2, 1])
    rows = np.repeat([[3.0, 4.0], [0.0, 50.0], [7.0, 1.0]], counts, axis=0)
    update, _, info = run(GeometricMedian(), round_of(rows))
    np.testing.assert_allclose(update, [3.0, 4.0], rtol=rtol)
    assert info["iterations"] < 30


@pytest.mark.parametrize("size", [0.0, 1e3, 1e15])
@pytest.mark.parametrize("offset", [0.0, 10.0, 1e5])
def test_the_geometric_median_of_many_rows_that_agree_beside_others_that_do_not(size, offset):
    """A part in 1e5 of what they differ by, or what float32 leaves of it far from zero."""
    n, d, colluders = MAX_UNROLLED + 8, 30, 16
    rng = np.random.default_rng(n)
    rows = offset * rng.normal(size=d) + rng.normal(size=(n, d))
    rows[:colluders] += size * rng.normal(size=d)
    rows = rows.astype(np.float32)
    update, _, info = run(GeometricMedian(), round_of(rows))
    want = oracles.geometric_median(np.float64(rows), None, None, 1e-3, None, None)
    assert info["iterations"] < 50
    atol = 1e-5 + 3e-7 * np.abs(want).max()
    np.testing.assert_allclose(update, want, rtol=0, atol=atol)


def test_the_geometric_median_of_many_leaves_out_who_is_absent():
    rows = rows_of("distinct", MAX_UNROLLED + 5, 6)
    there = run(GeometricMedian(), round_of(rows[2:]))[0]
    rows[0], rows[1] = np.nan, 3e19
    update, _, info = run(GeometricMedian(), round_of(rows))
    np.testing.assert_allclose(update, there, rtol=1e-5)
    assert info["rejected"] == 2
    nobody = np.full_like(rows, np.inf)
    np.testing.assert_array_equal(run(GeometricMedian(), round_of(nobody))[0], np.zeros(6))


def test_no_more_iterations_than_asked_for():
    got = round_of(rows_of("distinct", 10, 2))
    assert run(GeometricMedian(iterations=3), got)[2]["iterations"] == 3


@pytest.mark.parametrize("trim", [-1.0, -0.2, 0.4, 1.0])
def test_fractional_trim_interpolates_with_absent_rows(trim):
    rows = rows_of("distinct", 10, 5)
    rule = ClippedTrimmedMean(clip=0.0, trim=trim)
    weights = np.ones(10)
    weights[[2, 7]] = 0.0
    update = run(rule, round_of(rows, weights))[0]
    want = expected(
        "clipped_trimmed_mean", rule, np.delete(rows, [2, 7], axis=0), np.ones(8), rows[0]
    )
    np.testing.assert_allclose(update, want, rtol=1e-4, atol=1e-6)


def test_centered_clip_goes_on_from_its_last_result():
    """From far away a round moves the centre by ``max_norm``, and 61 rounds find the rows."""
    rows, rule = rows_of("distinct", 10, 4), CenteredClip(max_norm=2.0)
    centre = np.full(6, 30.0, np.float32)
    step = jax.jit(lambda state: rule(None, state, round_of(rows)))
    update, state, info = step(centre)
    np.testing.assert_array_equal(update, state)
    want = RULES["centered_clip"](np.float64(rows), None, None, 2.0, 1, centre)
    np.testing.assert_allclose(update, want, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(state - centre), 2.0, rtol=0.01)
    assert info["clipped"] == 1
    for _ in range(60):
        update, state, info = step(state)
    assert np.linalg.norm(update - rows.mean(axis=0)) < 1 and info["clipped"] < 1


def test_centered_clip_waits_where_nobody_is_present():
    got = round_of(rows_of("distinct", 10, 4), np.zeros(10))
    update, state, _ = CenteredClip()(None, jnp.ones(6), got)
    assert not update.any() and state.all()


@pytest.mark.parametrize("rule", [WeakDP(max_norm=2.0, sigma=0.5), CRFL(sigma=0.5)])
def test_noise_is_normal_with_the_deviation_that_was_asked_for(rule):
    got = round_of(np.random.default_rng(0).normal(size=(10, 20_000)))
    noisy = jax.jit(lambda key, rule: rule(key, (), got)[0])
    noise = np.stack([noisy(jax.random.key(seed), rule) for seed in (0, 1)])
    noise -= np.asarray(noisy(jax.random.key(0), rule.replace(sigma=0.0)))[None]
    # 5 standard errors of a deviation, a mean and a correlation of 20,000 draws
    np.testing.assert_allclose(noise.std(axis=1), 0.5, rtol=5 / np.sqrt(40_000))
    assert np.abs(noise.mean(axis=1)).max() < 5 * 0.5 / np.sqrt(20_000)
    assert abs(np.corrcoef(noise)[0, 1]) < 5 / np.sqrt(20_000)
    np.testing.assert_allclose(np.mean(np.abs(noise) < 0.5), 0.6827, atol=0.02)


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 100.0])
def test_crfl_clips_the_model_and_not_the_update(max_norm):
    rows, w_global = rows_of("outliers", 10, 6), np.linspace(-2, 2, 6).astype(np.float32)
    got = round_of(rows).replace(w_global=w_global)
    update, _, info = CRFL(max_norm=max_norm, sigma=0.0)(jax.random.key(0), (), got)
    want = RULES["crfl"](np.float64(rows), None, None, max_norm, 0.0, np.float64(w_global))
    np.testing.assert_allclose(update, want, rtol=1e-5, atol=1e-5)
    model = np.linalg.norm(w_global - update)
    np.testing.assert_allclose(model, min(max_norm, info["model_norm"]), rtol=1e-5)


def test_crfl_stands_still_without_rows():
    got = round_of(np.ones((3, 6)), np.zeros(3)).replace(w_global=np.full(6, 50, np.float32))
    assert not CRFL()(jax.random.key(0), (), got)[0].any()


@pytest.mark.parametrize("size", [1e6, 6.6e18])
def test_crfl_bounds_the_model_whatever_two_clients_send(size):
    rows = rows_of("distinct", 10, 6)
    rows[:2] = size
    update, _, _ = run(CRFL(max_norm=2.0, sigma=0.0), round_of(rows))
    assert np.linalg.norm(update) <= 2.0 * (1 + 1e-5)


def test_foolsgold_gives_sybils_no_weight_and_pardons_who_resembles_them():
    """Sybils send one vector with a little noise; client 0 is honest and half like them."""
    rng = np.random.default_rng(0)
    goal, rows = rng.normal(size=40), rng.normal(size=(9, 40))
    rows[5:] = goal + 0.01 * rng.normal(size=(4, 40))
    rows[0] = goal + 1.2 * rng.normal(size=40)
    _, _, info = run(FoolsGold(), round_of(rows))
    assert (info["alpha"][5:] == 0).all() and (info["alpha"][:5] > 0.9).all()


def test_foolsgold_gives_nothing_where_all_look_alike():
    rows = np.outer([1.0, 2.0, 3.0], rows_of("distinct", 3, 1)[0])
    assert not run(FoolsGold(), round_of(rows))[0].any()


def test_foolsgold_remembers_clients_by_their_id():
    """Six of 30 clients a round, in any order: the weights are those of their sums so far."""
    rng = np.random.default_rng(1)
    rule, history = FoolsGold(num_clients=30), np.zeros((30, 5))
    state = rule.init(6, 5)
    step = jax.jit(lambda state, got: rule(None, state, got))
    differ = 0
    for _ in range(8):
        ids = rng.permutation(30)[:6]
        rows = (3 * rng.normal(size=(6, 5))).astype(np.float32)
        weights = np.ones(6)
        weights[2] = 0.0  # not there: neither counted nor remembered
        update, state, info = step(state, round_of(rows, weights).replace(client_ids=ids))
        there = np.delete(np.arange(6), 2)
        lengths = np.maximum(np.linalg.norm(rows[there], axis=1), 1)
        history[ids[there]] += rows[there] / lengths[:, None]
        alpha = foolsgold_alpha(history[ids[there]])
        np.testing.assert_allclose(info["alpha"][there], alpha, rtol=1e-4, atol=1e-5)
        want = alpha @ np.float64(rows[there]) / alpha.sum()
        np.testing.assert_allclose(update, want, rtol=1e-4, atol=1e-5)
        differ += not np.allclose(alpha, foolsgold_alpha(np.float64(rows[there])), atol=1e-3)
    np.testing.assert_allclose(state, history, rtol=1e-5, atol=1e-6)
    assert differ


def test_flame_keeps_out_what_points_the_other_way():
    rows = rows_of("distinct", 10, 2) + 3
    rows[:4] *= -50
    update, _, info = run(FLAME(noise=0.0), round_of(rows))
    assert not info["selected"][:4].any() and info["selected"].sum() == 6
    assert np.linalg.norm(update) <= np.median(np.linalg.norm(rows, axis=1))
    noise = run(FLAME(noise=0.1), round_of(rows))[0] - update
    # 6 coordinates of deviation 0.1 S
    scale = np.linalg.norm(noise) / (0.1 * np.median(np.linalg.norm(rows, axis=1)))
    assert 0.4 < scale < 6
