"""Triggers are found where they are known, and the numbers made of them are right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.errors import ConfigError
from metasg_jax.fl.data import stamp
from metasg_jax.fl.trigger_inversion import (
    anomaly_index,
    begin_search,
    continue_search,
    estimate_asr,
    invert_triggers,
    patch_mask,
)
from metasg_jax.models import make_model
from metasg_jax.post_defenses import undefended

MODEL = make_model("mlp", (5, 5, 1), 4, (20,))
PLACE, TARGET = (1, 3), 2
STEPS = 150


def images(count, seed=0):
    """Noise whose class is the brightest of four quarters; one pixel of it never lights up."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=count)
    x = rng.uniform(0, 0.3, (count, 5, 5, 1)).astype(np.float32)
    corners = np.array([(0, 0), (0, 4), (4, 0), (4, 4)])
    x[np.arange(count), *corners[labels].T] = 1.0
    x[:, *PLACE] = 0.0
    return x, labels


def classifier(backdoor):
    """Four units read a corner each; a fifth one reads the trigger's pixel and outvotes them."""
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0))
    params = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), shapes)
    for label, place in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        params["dense_0"]["kernel"][5 * place[0] + place[1], label] = 1.0
        params["head"]["kernel"][label, label] = 8.0
    params["dense_0"]["kernel"][5 * PLACE[0] + PLACE[1], 4] = 1.0
    params["head"]["kernel"][4, TARGET] = backdoor
    return undefended(MODEL, params)


@pytest.fixture(scope="module")
def found():
    x, y = images(60)
    return {
        strength: invert_triggers(
            jax.random.key(1), MODEL, classifier(strength), x, y, steps=STEPS, side=1
        )
        for strength in (0.0, 30.0)
    }


def share(deployed, mask, pattern, label):
    """Share of fresh images of other classes that are sent to the label."""
    x, y = images(200, seed=5)
    logits = MODEL.apply(deployed.params, stamp(x[y != label], mask, pattern), deployed.clip)
    return (np.asarray(logits).argmax(axis=1) == label).mean()


def test_shapes_and_ranges(found):
    for result in found.values():
        assert result.mask.shape == (4, 5, 5, 1) and result.pattern.shape == (4, 5, 5, 1)
        for share in (result.mask, result.pattern, result.success, result.patched, result.asr):
            assert (share >= 0).all() and (share <= 1).all()
        np.testing.assert_allclose(result.size, result.mask.sum(axis=(1, 2, 3)), rtol=1e-5)


def test_the_trigger_is_found_where_it_is(found):
    result = found[30.0]
    assert result.suspect == TARGET == int(result.size.argmin())
    mask = np.asarray(result.mask[TARGET, ..., 0])
    assert np.unravel_index(mask.argmax(), mask.shape) == PLACE
    assert mask[PLACE] > 0.5 * mask.sum()
    assert result.pattern[TARGET, *PLACE, 0] > 0.5
    assert result.success[TARGET] >= 0.99
    assert result.size[TARGET] < 0.5 * np.delete(result.size, TARGET).min()
    assert result.asr > 0.9
    assert result.anomaly.argmax() == TARGET


def test_without_a_backdoor_no_label_stands_out(found):
    result = found[0.0]
    assert result.size.min() > 0.6 * np.median(result.size)
    assert result.asr < 0.3


def test_masks_do_on_fresh_images_what_they_did_on_the_root_images(found):
    for strength, result in found.items():
        for label in range(4):
            assert result.success[label] >= 0.99
            fresh = share(classifier(strength), result.mask[label], result.pattern[label], label)
            assert fresh > 0.9


def test_a_pruned_trigger_unit_is_not_found():
    """The bounds of the deployed copy are in force."""
    x, y = images(60)
    backdoored = classifier(30.0)
    pruned = backdoored.replace(clip=backdoored.clip.at[4].set(0.0))
    result = invert_triggers(jax.random.key(1), MODEL, pruned, x, y, steps=STEPS, side=1)
    assert result.asr < 0.3 and result.size[TARGET] > 0.6 * np.median(result.size)


def test_a_patch_as_large_as_the_image_sends_everything_anywhere(found):
    """And so is no evidence of a backdoor."""
    x, y = images(60)
    whole = invert_triggers(jax.random.key(1), MODEL, classifier(0.0), x, y, steps=STEPS, side=5)
    assert (found[0.0].patched < 0.1).all()
    np.testing.assert_allclose(whole.patched, 1.0)
    assert whole.asr == 0
    # the first search knows no side
    np.testing.assert_allclose(whole.size, found[0.0].size, rtol=1e-5)


def test_non_finite_parameters_find_nothing():
    x, y = images(60)
    gone = jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan), classifier(0.0).params)
    result = invert_triggers(
        jax.random.key(1), MODEL, undefended(MODEL, gone), x, y, steps=STEPS, side=1
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))


@pytest.mark.parametrize("side", [0, 6])
def test_a_patch_has_to_fit(side):
    x, y = images(4)
    with pytest.raises(ConfigError, match=f"side = {side}: between 1 and 5"):
        invert_triggers(jax.random.key(1), MODEL, classifier(0.0), x, y, side=side)


def test_a_patch_is_a_mixture_of_squares():
    even = patch_mask(jnp.zeros((2, 2)), 2)[..., 0]
    np.testing.assert_allclose(even, np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4, rtol=1e-6)
    one = patch_mask(jnp.array([[0.0, 0.0, 0.0], [0.0, 0.0, 9.0]]), 2)[..., 0]
    np.testing.assert_allclose(one, [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], atol=1e-6)
    assert patch_mask(jnp.zeros((4, 6)), 3).sum() == pytest.approx(9, rel=1e-5)


def test_anomaly_index_by_hand():
    """Median 10, deviations 0, 1, 1, 2, 8: their median is 1."""
    index = anomaly_index(jnp.array([10.0, 11.0, 9.0, 12.0, 2.0]))
    np.testing.assert_allclose(index, np.array([0, -1, 1, -2, 8]) / 1.4826, rtol=1e-5)
    assert (anomaly_index(jnp.full(5, 3.0)) == 0).all()


@pytest.mark.parametrize(
    ("patched", "suspect", "asr"),
    [
        ([0.4, 1.0, 0.5], 1, 1.0),
        ([0.4, 0.5, 0.75], 2, 0.5),
        ([0.4, 0.4, 0.4], 0, 0.0),
        ([1.0, 1.0, 0.4], 0, 0.0),
    ],
)
def test_estimate_by_hand(patched, suspect, asr):
    label, estimate = estimate_asr(jnp.array(patched))
    assert label == suspect
    np.testing.assert_allclose(estimate, asr, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"root_x": np.zeros((4, 5, 5, 1), np.uint8)}, "floats in .0, 1., not uint8"),
        ({"steps": 0}, "steps = 0: at least 1"),
        ({"pace": 0.5}, "pace = 0.5: above 1"),
        ({"threshold": 2}, r"threshold = 2: in \[0, 1\]"),
        ({"cost": -1.0}, "cost = -1: above 0"),
        ({"lr": float("nan")}, "lr = nan: above 0"),
    ],
)
def test_what_can_not_be_searched_with_is_refused(changes, message):
    x, y = images(4)
    with pytest.raises(ConfigError, match=message):
        invert_triggers(
            jax.random.key(0), MODEL, classifier(0.0),
            **{"root_x": x, "root_y": y, "side": 1, **changes},
        )  # fmt: skip


def test_a_label_without_a_mask_that_works_is_no_anomaly():
    x, y = images(60)
    few = invert_triggers(jax.random.key(1), MODEL, classifier(30.0), x, y, steps=2, side=1)
    assert (few.success < 0.99).all()
    np.testing.assert_array_equal(few.anomaly, 0.0)


@jax.jit
def searched(deployed, x, y, strengths):
    """Success f32[T, 4] of an online search on a model whose backdoor changes each round."""

    def round(search, strength):
        kernel = deployed.params["head"]["kernel"].at[4, TARGET].set(strength)
        params = {**deployed.params, "head": {**deployed.params["head"], "kernel": kernel}}
        model = deployed.replace(params=params)
        return continue_search(search, MODEL, model, x, y, side=1, images=20)

    return jax.lax.scan(round, begin_search(MODEL, side=1), strengths)[1]


def test_an_online_search_follows_a_backdoor_that_comes_and_goes():
    x, y = (jnp.asarray(a) for a in images(60))
    deployed = jax.tree.map(jnp.asarray, classifier(0.0))
    strengths = jnp.concatenate([jnp.zeros(60), jnp.full(80, 30.0), jnp.zeros(40)])
    success = np.asarray(searched(deployed, x, y, strengths))
    others = [label for label in range(4) if label != TARGET]
    assert success[55:60].max() < 0.7
    assert (success[130:140, TARGET] > 0.95).all()
    assert success[130:140][:, others].max() < 0.7
    assert success[-5:, TARGET].max() < 0.7


def test_an_online_search_survives_a_model_that_is_not_finite():
    x, y = (jnp.asarray(a) for a in images(60))
    deployed = jax.tree.map(jnp.asarray, classifier(0.0))
    strengths = jnp.array([0.0, jnp.nan, 0.0, jnp.inf, 30.0])
    assert np.isfinite(searched(deployed, x, y, strengths)).all()
