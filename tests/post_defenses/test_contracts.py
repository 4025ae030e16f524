"""What every registered post-training defence promises."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.errors import ConfigError
from metasg_jax.post_defenses import (
    POST_DEFENSES,
    Composed,
    FineTune,
    GuardedPrune,
    LearnedClip,
    NeuronClip,
    Prune,
)
from metasg_jax.types import Deployed
from tests.post_defenses.worlds import (
    MODELS,
    activations,
    apply,
    calibrate,
    calibrated,
    deploy,
    setting,
)

STEERED = [name for name, defence in POST_DEFENSES.items() if defence.action_spec]
CLIPPING = ["none", "neuron_clip", "learned_clip", "prune"]

every_defence = pytest.mark.parametrize("name", POST_DEFENSES)
every_steered = pytest.mark.parametrize("name", STEERED)
every_model = pytest.mark.parametrize("kind", MODELS)


def at(defence, state, deployed, knob):
    """The deployed model under one knob, as NumPy arrays."""
    action = jnp.array([knob], jnp.float32)
    return jax.tree.map(np.asarray, deploy(defence, state, deployed, action))


def clip_at(*args):
    return at(*args).clip


def distance(deployed, trained):
    """How far weights have moved."""
    moved = jax.tree.map(lambda a, b: np.abs(a - b).sum(), deployed.params, trained.params)
    return sum(jax.tree.leaves(moved))


def same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def bare(units):
    """A model without parameters and with unbounded units."""
    return Deployed((), jnp.full((units,), jnp.inf))


def test_defences_differ_as_pytrees():
    """Else jit may hand one the program of another: its cache compares tree structures."""
    for a, b in itertools.combinations(POST_DEFENSES.values(), 2):
        assert jax.tree.structure(a()) != jax.tree.structure(b()), (a, b)


@every_defence
@every_model
def test_a_bound_for_each_unit_and_parameters_of_the_same_kind(name, kind):
    defence, state, trained = calibrated(name, kind)
    deployed = at(defence, state, trained, -0.5)
    assert deployed.clip.shape == (MODELS[kind].num_units,)
    assert (deployed.clip >= 0).all()
    for new, old in zip(*map(jax.tree.leaves, (deployed.params, trained.params)), strict=True):
        assert new.shape == old.shape and new.dtype == old.dtype and np.isfinite(new).all()
    if name in CLIPPING:
        assert same(deployed.params, trained.params)


@every_defence
@every_model
def test_plus_one_is_exactly_no_defence(name, kind):
    defence, state, trained = calibrated(name, kind)
    deployed = at(defence, state, trained, 1.0)
    np.testing.assert_array_equal(deployed.clip, np.inf)
    assert same(deployed.params, trained.params)
    model, params, root, _ = setting(kind)
    # images far brighter than those calibrated on: nothing is bounded there either
    logits = apply(model, deployed.params, 100 * root, deployed.clip)
    np.testing.assert_array_equal(logits, apply(model, params, 100 * root, trained.clip))
    np.testing.assert_allclose(logits, apply(model, params, 100 * root), rtol=1e-4)


@every_defence
@every_model
@pytest.mark.parametrize("knob", [-1.0, 1.0])
def test_bounds_that_came_in_are_never_loosened(name, kind, knob):
    defence, _, trained = calibrated(name, kind)
    model, _, *root = setting(kind)
    units = np.random.default_rng(1).permutation(model.num_units)
    bounded = trained.replace(clip=jnp.where(units % 3 == 0, 0.01, jnp.inf))
    state = calibrate(defence, model, bounded, *root)
    deployed = deploy(defence, state, bounded, jnp.array([knob]))
    assert (deployed.clip <= bounded.clip).all()
    if knob == 1.0:
        np.testing.assert_array_equal(deployed.clip, bounded.clip)


@every_steered
@every_model
def test_minus_one_changes_the_logits(name, kind):
    """The control of the test above."""
    model, params, root, _ = setting(kind)
    deployed = at(*calibrated(name, kind), -1.0)
    logits = apply(model, deployed.params, root, deployed.clip)
    assert np.abs(logits - apply(model, params, root)).max() > 1e-3


@every_defence
def test_jit_equals_eager(name):
    defence, state, trained = calibrated(name, "mlp")
    eager, _, _ = defence(jax.random.key(0), state, trained, jnp.array([-0.3]))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
    jax.tree.map(close, at(defence, state, trained, -0.3), eager)


@every_steered
@every_model
def test_the_higher_the_knob_the_looser_every_bound_and_the_less_weights_move(name, kind):
    defence, state, trained = calibrated(name, kind)
    path = [at(defence, state, trained, knob) for knob in np.linspace(-1, 1, 21)]
    for tighter, looser in itertools.pairwise(path):
        assert (tighter.clip <= looser.clip).all()
        assert distance(tighter, trained) >= distance(looser, trained) * (1 - 1e-6)
    assert not same(path[0], path[-1])


@every_steered
@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_a_knob_beyond_the_range_acts_as_its_end(name, end):
    args = calibrated(name, "mlp")
    assert same(at(*args, 3 * end), at(*args, end))


@every_steered
def test_without_an_action_the_field_of_the_same_name_acts(name):
    defence, state, trained = calibrated(name, "mlp")
    [knob] = defence.action_spec
    by_field = deploy(defence.replace(**{knob: -0.6}), state, trained, None)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
    jax.tree.map(close, by_field, at(defence, state, trained, -0.6))
    assert not same(by_field, deploy(defence.replace(**{knob: 1.0}), state, trained, None))


@every_defence
def test_defaults_are_in_range_and_a_knob_beyond_it_is_refused(name):
    defence = POST_DEFENSES[name]()
    defence.check()
    for knob in defence.action_spec:
        with pytest.raises(ConfigError, match=rf"{knob} = 1.5: in \[-1, 1\]"):
            defence.replace(**{knob: 1.5}).check()


@pytest.mark.parametrize(
    ("defence", "message"),
    [
        (NeuronClip(min_range=0.0), "NeuronClip: min_range = 0: above 0"),
        (NeuronClip(max_range=0.2), "max_range = 0.2: above min_range = 0.3"),
        (Prune(max_rate=1.5), r"max_rate = 1.5: in \[0, 1\]"),
        (LearnedClip(keep=1.1), r"LearnedClip: keep = 1.1: in \[0, 1\]"),
        (LearnedClip(pace=1.0), "pace = 1: above 1"),
        (LearnedClip(steps=0), "steps = 0: at least 1"),
        (GuardedPrune(tolerance=-0.1), r"tolerance = -0.1: in \[0, 1\]"),
        (GuardedPrune(min_delta=6.0), "max_delta = 5: above min_delta = 6"),
        (FineTune(lr=0.0), "FineTune: lr = 0: above 0"),
        (Composed((Prune(), FineTune(steps=0))), "FineTune: steps = 0"),
        (Composed(()), "at least one"),
    ],
)
def test_fields_out_of_range_are_refused(defence, message):
    with pytest.raises(ConfigError, match=message):
        defence.check()


@every_model
def test_neuron_clip_bounds_by_a_multiple_of_the_largest_root_activation(kind):
    defence, state, trained = calibrated("neuron_clip", kind)
    model, params, root, _ = setting(kind)
    largest = np.asarray(activations(model, params, root)).max(axis=0)
    np.testing.assert_allclose(state, largest, rtol=1e-5)
    for knob, multiple in ((-1.0, 0.3), (0.0, 0.9**0.5), (0.5, 0.3 * 10**0.75)):
        clip = clip_at(defence, state, trained, knob)
        np.testing.assert_allclose(clip, multiple * largest, rtol=1e-5, atol=1e-7)


@every_model
@pytest.mark.parametrize("multiple", [1.0, 1.3, 2.9])
def test_neuron_clip_from_multiple_one_on_leaves_root_images_alone(kind, multiple):
    model, params, root, _ = setting(kind)
    _, state, trained = calibrated("neuron_clip", kind)
    knob = 2 * np.log(1.0001 * multiple / 0.3) / np.log(10) - 1
    deployed = deploy(NeuronClip(), state, trained, jnp.array([knob]))
    clipped = apply(model, deployed.params, root, deployed.clip)
    np.testing.assert_allclose(clipped, apply(model, params, root), rtol=1e-5, atol=1e-6)
    # but images that drive units beyond what is normal are bounded
    bright = apply(model, params, 50 * root)
    assert np.abs(apply(model, params, 50 * root, deployed.clip) - bright).max() > 0.1


@pytest.mark.parametrize(("knob", "count"), [(1.0, 0), (0.5, 2), (0.0, 5), (-0.2, 6), (-1.0, 10)])
def test_prune_takes_the_least_active_units(knob, count):
    """20 units, at most half of them: 1 of 10 per 0.2 of the knob, rounded down."""
    activity = np.random.default_rng(0).permutation(20) / 20 + 0.01
    deployed = deploy(Prune(max_rate=0.5), activity, bare(20), jnp.array([knob]))
    assert (deployed.clip == 0).sum() == count
    pruned, kept = activity[deployed.clip == 0], activity[deployed.clip != 0]
    assert pruned.max(initial=0) < kept.min()
    assert np.isinf(deployed.clip[deployed.clip != 0]).all()


@every_model
def test_prune_reads_mean_activations(kind):
    _, state, _ = calibrated("prune", kind)
    model, params, root, _ = setting(kind)
    mean = np.asarray(activations(model, params, root)).mean(axis=0)
    np.testing.assert_allclose(state, mean, rtol=1e-4, atol=1e-6)


def test_equally_dormant_units_are_pruned_by_number_not_all():
    deployed = deploy(Prune(max_rate=0.5), np.zeros(10), bare(10), jnp.array([-1.0]))
    assert (deployed.clip == 0).sum() == 5
