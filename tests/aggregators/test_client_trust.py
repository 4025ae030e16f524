"""Rules that everybody knows are points of the one that decides about each client."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators import ClientTrust, FLTrust, Mean, MultiKrum, TrimmedMean
from tests.rounds import honest_round, round_of

OPEN = (1.0, -1.0, -1.0)
RULE = ClientTrust()


@jax.jit
def steered(received, trust, knobs):
    return RULE(None, (), received, jnp.concatenate([jnp.asarray(trust), jnp.asarray(knobs)]))


def update(received, trust, knobs=OPEN):
    return np.asarray(steered(received, jnp.asarray(trust, jnp.float32), jnp.asarray(knobs))[0])


@jax.jit
def alone(rule, received):
    return rule(jax.random.key(0), (), received)[0]


def test_everybody_trusted_is_the_weighted_mean():
    got = honest_round(weights=[1, 2, 3, 4, 5, 1, 1, 1, 1, 1])
    mean = alone(Mean(), got)
    np.testing.assert_allclose(update(got, np.ones(10)), mean, rtol=1e-5)
    np.testing.assert_allclose(alone(RULE, got), mean, rtol=1e-5)


def test_trust_for_the_honest_alone_is_the_perfect_filter():
    got = honest_round()
    rows = np.array(got.updates)
    rows[:3] = 1e3
    trust = np.r_[-np.ones(3), np.ones(7)]
    np.testing.assert_allclose(
        update(got.replace(updates=rows), trust), rows[3:].mean(0), rtol=1e-5
    )


def test_trust_for_a_selection_is_multi_krum():
    got = honest_round()
    rows = np.array(got.updates)
    rows[:2] += 5
    got = got.replace(updates=rows)
    chosen = alone(MultiKrum(f=2), got)
    trust = np.r_[-np.ones(2), np.ones(8)]
    np.testing.assert_allclose(update(got, trust), chosen, rtol=1e-4)


def test_trimming_everybody_is_the_trimmed_mean():
    got = honest_round()
    knobs = (1.0, 2 * 0.2 / RULE.max_trim - 1, -1.0)
    np.testing.assert_allclose(
        update(got, np.ones(10), knobs), alone(TrimmedMean(beta=0.2), got), rtol=1e-4
    )


def test_cosines_as_trust_between_equal_norms_are_fltrust():
    """FLTrust brings every row to the root update's norm; here they have it."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 9))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    root = rows[0] * 0.8 + rows[1] * 0.4
    root /= np.linalg.norm(root)
    got = round_of(rows, root=root)
    cosines = np.maximum(rows @ root, 0)
    np.testing.assert_allclose(update(got, 2 * cosines - 1), alone(FLTrust(), got), rtol=1e-4)


def test_own_alone_is_the_servers_update():
    got = honest_round()
    np.testing.assert_allclose(
        update(got, np.ones(10), (1.0, -1.0, 1.0)), got.root_update, rtol=1e-5
    )


@pytest.mark.parametrize("knobs", [OPEN, (0.0, 0.0, -1.0)])
def test_untrusted_rows_are_not_read(knobs):
    got = honest_round()
    rows = np.array(got.updates)
    trust = np.r_[-np.ones(4), np.ones(6)]
    before = update(got, trust, knobs)
    rows[:2], rows[2], rows[3] = 1e6, np.nan, np.inf
    np.testing.assert_allclose(update(got.replace(updates=rows), trust, knobs), before, rtol=1e-5)


def test_nobody_trusted_leaves_the_model_as_it_was():
    got = honest_round()
    assert not update(got, -np.ones(10)).any()
    half = update(got, -np.ones(10), (1.0, -1.0, 0.0))
    np.testing.assert_allclose(half, np.asarray(got.root_update) / 2, rtol=1e-5)


def test_the_median_norm_is_of_the_trusted():
    """Forty rows of huge norm do not open the clip."""
    rows = np.zeros((5, 3))
    rows[:, 0] = [1.0, 1.0, 4.0, 100.0, 100.0]
    trust = [1, 1, 1, -1, -1]
    clip_at_median = 2 * np.log(1 / 0.3) / np.log(10 / 0.3) - 1
    got = update(round_of(rows), trust, (clip_at_median, -1.0, -1.0))
    np.testing.assert_allclose(got, [1.0, 0, 0], rtol=1e-4)
