"""What every registered pre-aggregator promises, and each against a NumPy statement of it."""

import dataclasses

import jax
import numpy as np
import pytest

from metasg_jax.aggregators import AGGREGATORS, Composed
from metasg_jax.aggregators.presence import count_rejected, presence
from metasg_jax.errors import ConfigError, UnknownNameError
from metasg_jax.game.make import check_rule, make_rule
from metasg_jax.pre_aggregators import NNM, PRE_AGGREGATORS, Bucketing, Clipping
from tests.pre_aggregators.oracles import PRE
from tests.rounds import honest_round, round_of, take, with_rows, with_weights

N, D = 10, 7

every_pre = pytest.mark.parametrize("name", PRE_AGGREGATORS)


@jax.jit
def jitted(pre, got, key=0):
    out, _, info = pre(jax.random.key(key), pre.init(*got.updates.shape), got)
    return out, info["rejected"]


def run(pre, got, key=0):
    return jitted(pre, got, key)[0]


def expected(name, pre, rows):
    fields = {f.name: getattr(pre, f.name) for f in dataclasses.fields(pre)}
    if name == "bucketing":
        fields["order"] = np.concatenate(buckets_of(pre, round_of(np.eye(len(rows)))))
    return PRE[name](np.float64(rows), **fields)


def buckets_of(pre, got, key=0):
    """Indices of the rows in each bucket, where row i is the unit vector e_i."""
    return [np.flatnonzero(mean) for mean in run(pre, got, key).updates]


def test_every_registered_pre_aggregator_has_an_oracle():
    assert set(PRE) == set(PRE_AGGREGATORS)


@every_pre
@pytest.mark.parametrize("n", [3, 4, 7, 10, 40])
def test_equals_its_oracle(name, n):
    rng = np.random.default_rng(n)
    far = rng.normal(size=(n, 6))
    far[: n // 4] *= 1e3
    ties = rng.integers(-2, 3, size=(n, 6)).astype(float)
    ties[1] = ties[0]
    pre = PRE_AGGREGATORS[name]()
    for rows in (rng.normal(size=(n, 6)), far, ties, 1e3 + 0.1 * rng.normal(size=(n, 6))):
        rows = rows.astype(np.float32)
        mixed = run(pre, round_of(rows)).updates
        want = expected(name, pre, rows)
        np.testing.assert_allclose(mixed, want, rtol=1e-5, atol=1e-6 * np.abs(want).max())


@every_pre
def test_structure_and_number_of_rows(name):
    pre, got = PRE_AGGREGATORS[name](), honest_round()
    out = run(pre, got)
    assert jax.tree.structure(out) == jax.tree.structure(got)
    rows = pre.num_rows(N)
    assert out.updates.shape == (rows, D) and out.updates.dtype == np.float32
    assert out.weights.shape == out.client_ids.shape == (rows,)
    np.testing.assert_array_equal(out.w_global, got.w_global)


@every_pre
def test_vmap_equals_loop(name):
    pre, rounds = PRE_AGGREGATORS[name](), [honest_round(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rounds)
    batched = jax.vmap(run, (None, 0))(pre, stacked).updates
    loop = np.stack([run(pre, got).updates for got in rounds])
    np.testing.assert_allclose(batched, loop, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(PRE_AGGREGATORS) - {"bucketing"}))
@pytest.mark.parametrize("poison", ["nan", "inf", "1e38", "weight 0"])
def test_absent_rows_stay_absent_and_touch_nobody(name, poison):
    pre, got, rejected = PRE_AGGREGATORS[name](), honest_round(), [4]
    if poison == "weight 0":
        bad = with_weights(with_rows(got, rejected, 3.0), rejected, 0.0)
    else:
        bad = with_rows(got, rejected, float(poison))
    out, count = jitted(pre, bad)
    assert np.isfinite(out.updates).all()
    assert count == (poison != "weight 0")
    kept = np.delete(np.arange(N), rejected)
    np.testing.assert_array_equal(out.weights > 0, np.isin(np.arange(N), kept))
    without = pre.replace(f=pre.f - 1) if hasattr(pre, "f") else pre
    rest = run(without, take(got, kept)).updates
    np.testing.assert_allclose(out.updates[kept], rest, rtol=1e-5, atol=1e-6)


@every_pre
def test_a_bad_row_is_counted_here_and_not_by_what_comes_next(name):
    pre, bad = PRE_AGGREGATORS[name](), with_rows(honest_round(), [2, 7], np.nan)
    out, count = jitted(pre, bad)
    assert count == 2 and count.shape == ()
    assert count_rejected(out, presence(out)) == 0


@every_pre
def test_without_rows_nothing_is_present(name):
    out = run(PRE_AGGREGATORS[name](), with_weights(honest_round(), slice(None), 0.0))
    assert not out.weights.any() and not out.updates.any()


def test_nnm_without_malicious_clients_is_the_mean_everywhere():
    got = honest_round()
    mixed = run(NNM(f=0.0), got).updates
    np.testing.assert_allclose(mixed, np.tile(got.updates.mean(axis=0), (N, 1)), rtol=1e-5)


@pytest.mark.parametrize(("rule", "short"), [("mean", "norm_bound"), ("median", "clipped_median")])
@pytest.mark.parametrize("max_norm", [0.3, 2.0])
def test_clipping_before_a_rule_is_the_rule_that_clips(rule, short, max_norm):
    got = with_rows(honest_round(weights=np.arange(1.0, N + 1)), 3, 40.0)
    both = Composed((Clipping(max_norm=max_norm),), AGGREGATORS[rule]())
    update, _, info = both(jax.random.key(0), ((), ()), got)
    want, _, _ = AGGREGATORS[short](max_norm=max_norm)(None, (), got)
    np.testing.assert_allclose(update, want, rtol=1e-5, atol=1e-6)
    norms = np.linalg.norm(got.updates, axis=1)
    np.testing.assert_allclose(info["clipped"], np.mean(norms > max_norm), rtol=1e-6)


@pytest.mark.parametrize("s", [1, 2, 3, 10])
def test_buckets_are_a_partition_of_the_rows_that_are_present(s):
    got = with_weights(with_rows(round_of(np.eye(N), np.arange(1.0, N + 1)), 4, np.nan), 7, 0.0)
    buckets = buckets_of(Bucketing(s=s), got)
    out = run(Bucketing(s=s), got)
    assert sorted(np.concatenate(buckets)) == [0, 1, 2, 3, 5, 6, 8, 9]
    sizes = [len(bucket) for bucket in buckets]
    whole, rest = divmod(8, s)
    assert sizes == [s] * whole + [rest] * (rest > 0) + [0] * (len(sizes) - whole - (rest > 0))
    np.testing.assert_array_equal(out.weights, [got.weights[bucket].sum() for bucket in buckets])
    for bucket, client in zip(buckets, out.client_ids, strict=True):
        assert client == (bucket[0] if len(bucket) else -1)


def test_every_pair_shares_a_bucket_equally_often():
    """With 10 rows in buckets of 2, a pair meets with probability 1 / 9."""
    draws = jax.vmap(run, (None, None, 0))(Bucketing(), round_of(np.eye(N)), np.arange(2000))
    member = np.float64(draws.updates > 0)
    together = np.einsum("kbi,kbj->ij", member, member) / 2000
    pairs = together[np.triu_indices(N, 1)]
    np.testing.assert_allclose(pairs, 1 / 9, atol=5 * np.sqrt(1 / 9 * 8 / 9 / 2000))


def test_two_bad_rows_spoil_two_buckets_at_most():
    got = with_rows(honest_round(), slice(2), 1e6)
    for key in range(20):
        far = np.abs(run(Bucketing(), got, key).updates).max(axis=1) > 1e3
        assert 1 <= far.sum() <= 2


def test_a_bucket_has_one_to_n_rows():
    for s in (0, 11):
        with pytest.raises(ConfigError, match=rf"Bucketing: s = {s}: in \[1, n\]"):
            check_rule(Composed((Bucketing(s=s),), AGGREGATORS["mean"]()), N)
    with pytest.raises(ConfigError, match=r"Krum: f = 3: .* num_sampled = 5"):
        make_rule("bucketing+krum", N, 0.3)


def test_composed_is_one_after_the_other():
    got = with_rows(honest_round(), slice(2), 50.0)
    update, _, info = make_rule("nnm+krum", N, 0.2)(jax.random.key(0), ((), ()), got)
    want, _, _ = AGGREGATORS["krum"](f=2.0)(None, (), run(NNM(f=2.0), got))
    np.testing.assert_allclose(update, want, rtol=1e-5)
    assert "selected" in info


def test_composed_declares_what_its_parts_need():
    rule = make_rule("nnm+nnm+fltrust", N, 0.2)
    assert isinstance(rule, Composed) and len(rule.pre) == 2
    assert rule.needs_root and rule.action_spec == ()
    steered = make_rule("nnm+clipped_trimmed_mean", N, 0.2)
    assert steered.action_spec == ("clip", "trim") and not steered.needs_root
    assert len(steered.init(N, D)) == 2


def test_parts_of_a_composed_rule_are_looked_up_and_checked():
    assert make_rule("nnm+krum", N, 0.3) == Composed((NNM(f=3.0),), AGGREGATORS["krum"](f=3.0))
    with pytest.raises(UnknownNameError, match="pre-aggregator 'krum'"):
        make_rule("krum+krum", N, 0.2)
    with pytest.raises(UnknownNameError, match="rule 'nnm'"):
        make_rule("nnm", N, 0.2)
    with pytest.raises(ConfigError, match="NNM: f = 5"):
        check_rule(Composed((NNM(f=5.0),), AGGREGATORS["mean"]()), N)
