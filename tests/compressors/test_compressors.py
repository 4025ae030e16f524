"""What every registered compressor promises, and each against a NumPy statement of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.compressors import COMPRESSORS, Int8, RandomK, Sign, TopK, make_compressor
from metasg_jax.compressors.selection import largest
from metasg_jax.config import FLConfig
from metasg_jax.errors import ConfigError, UnknownNameError
from tests.compressors.oracles import COMPRESSED

D = 60

every_compressor = pytest.mark.parametrize("name", COMPRESSORS)


def sent(compressor, rows, seed=0):
    # the fields stay Python numbers: how many entries are sent is static
    keys = jax.random.split(jax.random.key(seed), len(rows))
    return np.asarray(jax.jit(jax.vmap(compressor))(keys, jnp.asarray(rows, jnp.float32)))


def drawn_rows():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, D))
    rows[1] *= 1e6
    rows[2] = rng.integers(-2, 3, size=D)  # ties
    rows[3] = 0.0
    rows[4] = 1.0
    rows[5, :50] = 0.0
    return rows.astype(np.float32)


@every_compressor
def test_equals_its_oracle(name):
    compressor, rows = COMPRESSORS[name](), drawn_rows()
    fields = {f.name: getattr(compressor, f.name) for f in dataclasses.fields(compressor)}
    got = sent(compressor, rows)
    places = [np.flatnonzero(row) for row in sent(compressor, np.ones_like(rows))]
    for row, out, drawn in zip(rows, got, places, strict=True):
        more = {"places": drawn} if name == "random_k" else {}
        want = COMPRESSED[name](np.float64(row), **fields, **more)
        np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6 * np.abs(row).max())


def test_every_compressor_has_an_oracle():
    assert set(COMPRESSED) == set(COMPRESSORS)


@every_compressor
def test_a_row_comes_nearer_on_average(name):
    """What error feedback needs: |x - C(x)|^2 is below |x|^2, in expectation over the draws."""
    rows = drawn_rows()[[0, 1, 2, 4, 5]]
    left = np.mean(
        [np.square(rows - sent(COMPRESSORS[name](), rows, s)).sum(1) for s in range(5)], 0
    )
    assert (left < np.square(np.float64(rows)).sum(axis=1)).all()


@every_compressor
def test_fewer_bits_than_floats(name):
    compressor = COMPRESSORS[name]()
    assert (compressor.bits(10_000) == 320_000) == compressor.lossless
    assert 0 < compressor.bits(10_000) <= 320_000


def test_bits_by_hand():
    assert TopK(share=0.1).bits(1000) == 100 * (32 + 10)
    assert RandomK(share=0.1).bits(1000) == 100 * 32 + 32
    assert Int8().bits(1000) == 8 * 1000 + 32
    assert Sign().bits(1000) == 1000 + 32
    assert TopK(share=1e-9).bits(1000) == 42


@pytest.mark.parametrize("name", ["top_k", "random_k"])
@pytest.mark.parametrize("share", [0.001, 0.3, 1.0])
def test_exactly_k_entries_are_sent_whatever_the_row(name, share):
    """Rows of one magnitude too, with which a hostile client might send more."""
    k = max(1, round(share * D))
    got = sent(COMPRESSORS[name](share=share), np.full((3, D), -2.0))
    np.testing.assert_array_equal((got != 0).sum(axis=1), k)


def test_the_first_of_equal_values_are_taken():
    values = jnp.asarray([0, 5, 2**31 - 1, 5, 5, 0], jnp.int32)
    assert np.flatnonzero(largest(values, 3)).tolist() == [1, 2, 3]
    assert np.flatnonzero(largest(jnp.zeros(7, jnp.int32), 7)).tolist() == list(range(7))


def test_random_places_differ_by_client_and_round_and_are_fair():
    ones = np.ones((400, D))
    a, b = sent(RandomK(share=0.25), ones, 0), sent(RandomK(share=0.25), ones, 1)
    assert (a[0] != a[1]).any() and (a != b).any()
    share = np.concatenate([a, b]).mean(axis=0)
    np.testing.assert_allclose(share, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 800))


@every_compressor
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_harms_no_other(name, bad):
    rows = drawn_rows()
    hostile = rows.copy()
    hostile[0] = bad
    got = sent(COMPRESSORS[name](), hostile)
    assert not np.isfinite(got[0]).all()
    np.testing.assert_array_equal(got[1:], sent(COMPRESSORS[name](), rows)[1:])


def test_strings_make_compressors_and_bad_ones_are_refused_by_name():
    assert make_compressor("top_k:share=0.05") == TopK(share=0.05)
    for share in ("0", "1.5", "nan", "-1"):
        with pytest.raises(ConfigError, match=r"TopK: share = .*: in \(0, 1\]"):
            FLConfig(compression=f"top_k:share={share}").check()
    with pytest.raises(UnknownNameError, match=r"compressor 'topk'.*did you mean 'top_k'"):
        FLConfig(compression="topk").check()
    with pytest.raises(ConfigError, match=r"compression: sign in .* has no knob 'k'; it has: none"):
        FLConfig(compression="sign:k=3").check()
