"""DeepSight on the rows of a small MLP: against its oracle, by hand, and with hostile rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators import DeepSight
from metasg_jax.aggregators.deepsight import (
    CHUNK,
    EPSILON,
    division_differences,
    noise_images,
    normalised_energies,
    threshold_exceedings,
)
from metasg_jax.errors import ConfigError
from metasg_jax.game.make import check_rule
from metasg_jax.models import make_model
from tests.aggregators.head_model import HeadModel
from tests.aggregators.oracles import deepsight_steps
from tests.rounds import round_of, take, with_rows

N = 10
MODEL = make_model("mlp", (3, 3, 1), 4, (5,))
D = MODEL.num_params  # 50 in the body; the head's bias f32[4], then its kernel f32[5, 4]
RULE = DeepSight(model=MODEL, num_inputs=CHUNK)
W_GLOBAL = np.random.default_rng(0).normal(size=D).astype(np.float32)


def mlp_round(seed, malicious=2, noise=0.3):
    """Honest rows train all classes; malicious ones the head's neuron 1, and the body as honest."""
    rng = np.random.default_rng(seed)
    rows = 0.2 * (rng.normal(size=D) + noise * rng.normal(size=(N, D)))
    head = rows[:, 50:].reshape(N, 6, 4)
    head += 0.1 * np.sign(head)
    head[:malicious] *= [0.01, 1.0, 0.01, 0.01]
    head[:malicious, :, 1] = -1.0 + 0.05 * rng.normal(size=(malicious, 6))
    return round_of(rows).replace(w_global=W_GLOBAL)


@jax.jit
def run(got):
    return RULE(jax.random.key(0), (), got)


@pytest.mark.parametrize("malicious", [0, 2, 4])
def test_it_is_its_oracle_on_the_rows_of_an_mlp(malicious):
    fields = {f.name: getattr(RULE, f.name) for f in dataclasses.fields(RULE)}
    accepted = []
    for seed, noise in enumerate([0.1, 0.3, 3.0]):
        got = mlp_round(seed, malicious, noise)
        update, _, info = run(got)
        rows, w_global = np.float64(got.updates), np.float64(W_GLOBAL)
        want, selected, suspicious = deepsight_steps(rows, None, None, **fields, w_global=w_global)
        np.testing.assert_array_equal(info["suspicious"], suspicious)
        np.testing.assert_array_equal(info["selected"], selected)
        np.testing.assert_allclose(update, want, rtol=1e-4, atol=1e-5)
        accepted.append(selected)
    assert np.mean(accepted) > 0.5


def test_rows_that_train_one_neuron_are_left_out():
    """All honest rows stay; the control: without the two, nobody is suspicious."""
    for seed in range(5):
        update, _, info = run(mlp_round(seed))
        np.testing.assert_array_equal(info["suspicious"], np.arange(N) < 2)
        np.testing.assert_array_equal(info["selected"], np.arange(N) >= 2)
        rows = mlp_round(seed).updates
        norms = np.linalg.norm(rows, axis=1)
        clipped = rows * np.minimum(1, np.median(norms) / norms)[:, None]
        np.testing.assert_allclose(update, clipped[2:].mean(axis=0), rtol=1e-4, atol=1e-6)
        assert run(mlp_round(seed, malicious=0))[2]["selected"].all()


@pytest.mark.parametrize(("below", "accepted"), [(1, True), (2, False)])
def test_a_cluster_is_judged_by_its_share_of_suspicious_rows(below, accepted):
    """Four rows are alike, and so are six others; some of the four miss the threshold by a hair.

    A third of (1, e^2, e^2) is exceeded by e^2 from e = 0.577 on: then a client has 3 exceedings,
    else 1, which is at most half of the median, 3. One of four is less than a third, two are more.
    """
    rng = np.random.default_rng(0)
    energies = np.where(np.arange(4) < below, 0.576, 0.579)
    alike = np.array([[0.0, 1.0, -e, e, -1e-4, 4e-4, 2e-4] for e in energies])
    others = np.array([0.0, -0.5, 0.4, 0.5, 0.2, -0.3, 0.2]) + 0.001 * rng.normal(size=(6, 7))
    rule = DeepSight(model=HeadModel(1), num_inputs=16, min_cluster_size=4, min_samples=1)
    _, _, info = jax.jit(rule)(jax.random.key(0), (), round_of(np.concatenate([alike, others])))
    np.testing.assert_array_equal(info["suspicious"], np.arange(N) < below)
    np.testing.assert_array_equal(info["selected"], (np.arange(N) >= 4) | accepted)


def test_energies_and_exceedings_by_hand():
    """Energies 4, 2, 1, 0: NEUPs 16, 4, 1, 0 of 21; a quarter of 16 is 4, which isn't exceeded."""
    kernel = jnp.array([[[1.0, -1.0, 0.0, 0.0], [-2.0, 0.5, 1.0, 0.0]], [[0.0] * 4] * 2])
    bias = jnp.array([[1.0, 0.5, 0.0, 0.0], [0.0] * 4])
    neups = normalised_energies(kernel, bias)
    np.testing.assert_allclose(neups, np.array([[16, 4, 1, 0], [0] * 4]) / 21, rtol=1e-6)
    # the second client left the layer as it was
    assert threshold_exceedings(neups, 0.01).tolist() == [1, 0]
    assert threshold_exceedings(neups, 0.2).tolist() == [1, 0]
    wide = jnp.array([[1.0, 0.0099, 0.0101, 0.02] + [0.0] * 196])
    assert threshold_exceedings(wide, 0.01).tolist() == [3]
    assert threshold_exceedings(wide, 0.0).tolist() == [4]


def test_division_differences_are_means_over_all_images():
    """2 CHUNK + 2 inputs make three equal chunks, and one image of the last is not counted."""
    got, key, count = mlp_round(0), jax.random.key(3), 2 * CHUNK + 2
    ratios = jax.jit(division_differences, static_argnums=(1, 3, 4))(key, MODEL, got, count, 2)
    size = -(-count // 3)
    images = [noise_images(jax.random.fold_in(key, i), 2, size, (3, 3, 1)) for i in range(3)]
    images = np.concatenate(images, axis=1)[:, :count]
    assert images.shape[1] == count < 3 * size
    for seed in range(2):
        base = jax.nn.softmax(MODEL.apply(MODEL.unravel(W_GLOBAL), images[seed]))
        local = jax.nn.softmax(MODEL.apply(MODEL.unravel(W_GLOBAL - got.updates[7]), images[seed]))
        want = np.mean(np.float64(local) / (base + EPSILON), axis=0)
        np.testing.assert_allclose(ratios[seed, 7], want, rtol=1e-4)


@pytest.mark.parametrize("size", [1e18, np.nan])
def test_a_model_that_predicts_no_number_touches_nobody_else(size):
    """Rows of 1e18 have a norm; the product of two layers has none."""
    got = with_rows(mlp_round(1), 0, size)
    update, _, info = run(got)
    assert np.isfinite(update).all()
    assert info["rejected"] == np.isnan(size)
    # all but the one that is left of the malicious
    np.testing.assert_array_equal(info["selected"][2:], True)
    assert not info["selected"][1]
    if np.isnan(size):
        rest = jax.jit(lambda got: RULE(jax.random.key(0), (), got))(take(got, np.arange(1, N)))
        np.testing.assert_allclose(update, rest[0], rtol=1e-5, atol=1e-6)


def test_it_says_that_it_needs_a_model():
    with pytest.raises(ConfigError, match=r"DeepSight: model = None: .*make_model"):
        DeepSight()(jax.random.key(0), (), round_of([[1.0]]))
    with pytest.raises(ConfigError, match="DeepSight: model = None"):
        check_rule(DeepSight(), N)
    assert check_rule(DeepSight(model=HeadModel(1)), N).num_inputs == 256


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_inputs", 0), ("num_seeds", 0), ("min_cluster_size", 1), ("min_samples", 0)],
)
def test_its_numbers_are_checked(field, value):
    rule = DeepSight(model=HeadModel(1)).replace(**{field: value})
    with pytest.raises(ConfigError, match=f"DeepSight: {field} = {value}: at least {value + 1}"):
        check_rule(rule, N)
