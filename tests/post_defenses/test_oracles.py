"""The calibrated defences against loops in NumPy, and cases worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.post_defenses import (
    Composed,
    FineTune,
    GuardedPrune,
    LearnedClip,
    NeuronClip,
    Prune,
    undefended,
)
from metasg_jax.post_defenses.guarded_prune import Path, clean_up
from tests.post_defenses.worlds import (
    MODELS,
    accuracy,
    activations,
    apply,
    calibrate,
    calibrated,
    deploy,
    setting,
)

every_model = pytest.mark.parametrize("kind", MODELS)


def at(defence, state, deployed, *knobs):
    return deploy(defence, state, deployed, jnp.array(knobs, jnp.float32))


def without_extremes(params, delta):
    """NumPy: every kernel but the head's, weights beyond delta deviations set to 0."""
    cleaned = {name: dict(layer) for name, layer in params.items()}
    for name, layer in cleaned.items():
        kernel = np.asarray(layer["kernel"])
        far = np.abs(kernel - kernel.mean()) > delta * kernel.std()
        layer["kernel"] = kernel if name == "head" else np.where(far, 0, kernel)
    return cleaned


@every_model
@pytest.mark.parametrize("tolerance", [0.0, 0.12, 0.4])
def test_guarded_prune_walks_as_far_as_a_loop_would(kind, tolerance):
    model, params, root, labels = setting(kind)
    _, _, trained = calibrated("guarded_prune", kind)
    defence = GuardedPrune(tolerance=tolerance, max_delta=3.0, min_delta=0.5, levels=6)
    state = calibrate(defence, model, trained, root, labels)

    needed = accuracy(kind, trained) - tolerance - 1e-5
    order = np.asarray(activations(model, params, root)).mean(axis=0).argsort(kind="stable")
    clip = np.full(model.num_units, np.inf, np.float32)
    for unit in order[:-1]:
        fewer = clip.copy()
        fewer[unit] = 0
        if accuracy(kind, trained.replace(clip=fewer)) < needed:
            break
        clip = fewer
    np.testing.assert_array_equal(order[np.asarray(state.rank)[order]], order)
    assert state.num_pruned == (clip == 0).sum()

    cleaned, levels = params, 0
    for delta in np.linspace(3.0, 0.5, 6):
        stricter = without_extremes(params, delta)
        if accuracy(kind, trained.replace(params=stricter, clip=clip)) < needed:
            break
        cleaned, levels = stricter, levels + 1
    assert state.num_cleaned == levels

    end = at(defence, state, trained, -1.0)
    np.testing.assert_array_equal(end.clip, clip)
    jax.tree.map(np.testing.assert_array_equal, end.params, cleaned)
    # the guard holds all along
    for knob in np.linspace(-1, 1, 9):
        assert accuracy(kind, at(defence, state, trained, knob)) >= needed


def test_the_oracle_above_sees_both_guards_bind():
    stops = []
    for kind in MODELS:
        defence, state, trained = calibrated("guarded_prune", kind)
        stops.append(int(state.num_pruned))
        assert 0 < stops[-1] < MODELS[kind].num_units - 1
    assert stops[0] != stops[1]


def test_guarded_prune_takes_units_first_then_levels():
    """Three units and two levels: five steps, one for each 0.4 of the knob."""
    state = Path(jnp.array([2, 0, 3, 1]), jnp.asarray(3), jnp.asarray(2))
    defence = GuardedPrune(max_delta=2.0, min_delta=1.0, levels=3)
    kernel = jnp.array([[-1.0, 1.0, -1.0, 1.0], [-1.0, 1.0, -1.0, 5.0]])
    model = undefended(MODELS["mlp"], {"dense_0": {"kernel": kernel}})
    model = model.replace(clip=jnp.full((4,), jnp.inf))
    pruned = [[], [1], [1, 3], [0, 1, 3], [0, 1, 3], [0, 1, 3]]
    for steps, units in enumerate(pruned):
        end, _, info = defence(jax.random.key(0), state, model, jnp.array([1 - 0.4 * steps]))
        assert np.flatnonzero(end.clip == 0).tolist() == units
        assert info["pruned"] == len(units) / 4
        assert info["delta"] == {4: 2.0, 5: 1.5}.get(steps, np.inf)
        # mean 0.5, deviation 1.94: 5 is 2.3 deviations away
        assert (end.params["dense_0"]["kernel"] == 0).sum() == (steps >= 4)


def test_clean_up_spares_the_head_and_biases():
    far = jnp.array([[0.0] * 15 + [9.0]])
    layer = {"kernel": far, "bias": far}
    out = clean_up(undefended(MODELS["mlp"], {"dense_0": layer, "head": layer}), 3.0).params
    assert out["dense_0"]["kernel"].max() == 0
    for kept in (out["dense_0"]["bias"], out["head"]["kernel"], out["head"]["bias"]):
        assert kept.max() == 9


@every_model
@pytest.mark.parametrize("keep", [0.95, 0.6])
def test_learned_bounds_keep_the_accuracy_and_are_tighter_than_the_maximum(kind, keep):
    model, params, root, labels = setting(kind)
    _, _, trained = calibrated("learned_clip", kind)
    bounds = np.asarray(calibrate(LearnedClip(keep=keep), model, trained, root, labels))
    largest = np.asarray(activations(model, params, root)).max(axis=0)
    assert (bounds <= largest * (1 + 1e-6)).all()
    alive = largest > 0
    assert (bounds[alive] / largest[alive]).mean() < 0.9
    assert accuracy(kind, trained.replace(clip=bounds)) >= keep * accuracy(kind, trained)
    if keep == 0.95:
        state = calibrated("learned_clip", kind)[1]
        np.testing.assert_allclose(bounds, state, rtol=1e-5)
        # knob 0 deploys them as they are
        np.testing.assert_allclose(at(LearnedClip(), state, trained, 0.0).clip, state, rtol=1e-5)
    else:
        assert bounds.mean() < np.asarray(calibrated("learned_clip", kind)[1]).mean()


def test_a_unit_that_says_nothing_is_clipped_most():
    """Two units with the same activations; the head reads the first alone."""
    model = MODELS["mlp"]
    params = jax.tree.map(np.zeros_like, setting("mlp")[1])
    params["dense_0"]["kernel"][:, 0] = 1.0
    params["dense_1"]["kernel"][0, :2] = 1.0
    params["head"]["kernel"][0] = [0.0, 4.0, 8.0]
    params["head"]["bias"][:] = [0.0, 0.0, -24.0]
    root = setting("mlp")[2]
    trained = undefended(model, params)
    labels = np.asarray(apply(model, params, root)).argmax(axis=1)
    bounds = np.asarray(calibrate(LearnedClip(), model, trained, root, labels))
    speaks, silent = bounds[7:9]
    assert silent < 0.3 * speaks
    assert (bounds[1:7] == 0).all() and (bounds[9:] == 0).all()


@every_model
def test_fine_tune_is_gradient_descent(kind):
    model, params, root, labels = setting(kind)
    clip = np.where(np.arange(model.num_units) % 4 == 0, 0.05, np.inf).astype(np.float32)
    bounded = undefended(model, params).replace(clip=jnp.asarray(clip))
    defence = FineTune(lr=0.3, steps=4)
    state = calibrate(defence, model, bounded, root, labels)
    one_hot = np.eye(model.num_classes, dtype=np.float32)[labels]

    @jax.jit
    def gradient(params):
        def loss(params):
            return -(jax.nn.log_softmax(model.apply(params, root, clip)) * one_hot).sum() / 20

        return jax.grad(loss)(params)

    tuned = params
    for _ in range(4):
        tuned = jax.tree.map(lambda p, g: np.asarray(p - 0.3 * g), tuned, gradient(tuned))
    end, half = (at(defence, state, bounded, knob) for knob in (-1.0, 0.0))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(close, end.params, tuned)
    jax.tree.map(lambda h, p, t: close(h, (p + t) / 2), half.params, params, tuned)
    np.testing.assert_array_equal(end.clip, clip)


def test_a_model_that_diverged_in_tuning_leaves_plus_one_alone():
    params = {"head": {"bias": jnp.ones(3)}}
    trained = undefended(MODELS["mlp"], params)
    tuned = {"head": {"bias": jnp.full(3, jnp.nan)}}
    np.testing.assert_array_equal(
        at(FineTune(), tuned, trained, 1.0).params["head"]["bias"], np.ones(3)
    )


def test_composed_is_its_parts_one_after_the_other():
    model, params, *root = setting("mlp")
    trained = undefended(model, params)
    parts = Prune(), NeuronClip(), FineTune(steps=3)
    composed = Composed(parts)
    assert composed.action_spec == ("rate", "range", "tune")
    knobs = -0.7, -0.4, -0.2
    by_hand = trained
    for part, knob in zip(parts, knobs, strict=True):
        state = calibrate(part, model, by_hand, *root)
        by_hand = at(part, state, by_hand, knob)
    state = calibrate(composed, model, trained, *root)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)  # noqa: E731
    jax.tree.map(close, at(composed, state, trained, *knobs), by_hand)
    # the later parts' calibration depends on what the first does
    other = at(composed, state, trained, 1.0, *knobs[1:])
    assert (
        np.abs(np.asarray(other.params["head"]["kernel"]) - by_hand.params["head"]["kernel"]).max()
        > 1e-6
    )
    jax.tree.map(
        np.testing.assert_array_equal, at(composed, state, trained, 1.0, 1.0, 1.0), trained
    )
    _, _, info = composed(jax.random.key(0), state, trained)
    assert set(info) == {"pruned", "range_multiple", "tuned"}


def test_composed_without_an_action_takes_the_fields():
    model, params, *root = setting("mlp")
    trained = undefended(model, params)
    composed = Composed((Prune(rate=-0.7), NeuronClip(range=-0.4)))
    state = calibrate(composed, model, trained, *root)
    by_field = deploy(composed, state, trained, None)
    by_action = at(composed, state, trained, -0.7, -0.4)
    np.testing.assert_allclose(by_field.clip, by_action.clip, rtol=1e-6)
