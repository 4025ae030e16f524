"""What every registered post-training defence promises."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.errors import ConfigError
from metasg_jax.models import make_model
from metasg_jax.post_defenses import POST_DEFENSES, NeuronClip, Prune, undefended
from metasg_jax.types import Deployed

MODELS = {
    "mlp": make_model("mlp", (4, 4, 1), 3, (7, 5)),
    "cnn": make_model("cnn", (16, 16, 1), 3, (4, 5, 6)),
}
STEERED = [name for name, defence in POST_DEFENSES.items() if defence.action_spec]

every_defence = pytest.mark.parametrize("name", POST_DEFENSES)
every_steered = pytest.mark.parametrize("name", STEERED)
every_model = pytest.mark.parametrize("kind", MODELS)


apply = jax.jit(lambda model, *args: model.apply(*args), static_argnums=0)
activations = jax.jit(lambda model, *args: model.activations(*args), static_argnums=0)


@functools.cache
def setting(kind):
    model = MODELS[kind]
    params = jax.tree.map(np.asarray, jax.jit(model.init)(jax.random.key(2)))
    rng = np.random.default_rng(0)
    root = rng.uniform(size=(20, *model.input_shape)).astype(np.float32)
    return model, params, root, rng.integers(model.num_classes, size=20)


calibrate = jax.jit(lambda defence, model, *args: defence.calibrate(model, *args), static_argnums=1)


@functools.cache
def calibrated(name, kind):
    """A defence, what it calibrated on the model as it was trained, and that model."""
    model, params, *root = setting(kind)
    defence = POST_DEFENSES[name]()
    trained = undefended(model, params)
    return defence, calibrate(defence, model, trained, *root), trained


@jax.jit
def deploy(defence, state, deployed, action):
    return defence(jax.random.key(0), state, deployed, action)[0]


def clip_at(defence, state, deployed, knob):
    return np.asarray(deploy(defence, state, deployed, jnp.array([knob])).clip)


def bare(units):
    """A model without parameters and with unbounded units."""
    return Deployed((), jnp.full((units,), jnp.inf))


def test_defences_differ_as_pytrees():
    """Else jit may hand one the program of another: its cache compares tree structures."""
    for a, b in itertools.combinations(POST_DEFENSES.values(), 2):
        assert jax.tree.structure(a()) != jax.tree.structure(b()), (a, b)


@every_defence
@every_model
def test_a_bound_for_each_unit_and_parameters_untouched(name, kind):
    defence, state, trained = calibrated(name, kind)
    deployed = deploy(defence, state, trained, jnp.array([-0.5]))
    assert deployed.clip.shape == (MODELS[kind].num_units,)
    assert (deployed.clip >= 0).all()
    jax.tree.map(np.testing.assert_array_equal, deployed.params, trained.params)


@every_defence
@every_model
def test_plus_one_is_exactly_no_defence(name, kind):
    defence, state, trained = calibrated(name, kind)
    deployed = deploy(defence, state, trained, jnp.array([1.0]))
    np.testing.assert_array_equal(deployed.clip, np.inf)
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
    clip = clip_at(*calibrated(name, kind), -1.0)
    assert np.abs(apply(model, params, root, clip) - apply(model, params, root)).max() > 1e-3


@every_defence
def test_jit_equals_eager(name):
    defence, state, trained = calibrated(name, "mlp")
    action = jnp.array([-0.3])
    eager, _, _ = defence(jax.random.key(0), state, trained, action)
    np.testing.assert_allclose(deploy(defence, state, trained, action).clip, eager.clip, rtol=1e-6)


@every_steered
@every_model
def test_the_higher_the_knob_the_looser_every_bound(name, kind):
    path = [clip_at(*calibrated(name, kind), knob) for knob in np.linspace(-1, 1, 21)]
    for tighter, looser in itertools.pairwise(path):
        assert (tighter <= looser).all()
    assert (path[0] < path[-1]).any()


@every_steered
@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_a_knob_beyond_the_range_acts_as_its_end(name, end):
    args = calibrated(name, "mlp")
    np.testing.assert_array_equal(clip_at(*args, 3 * end), clip_at(*args, end))


@every_steered
def test_without_an_action_the_field_of_the_same_name_acts(name):
    defence, state, trained = calibrated(name, "mlp")
    [knob] = defence.action_spec
    by_field = deploy(defence.replace(**{knob: -0.6}), state, trained, None).clip
    np.testing.assert_allclose(by_field, clip_at(defence, state, trained, -0.6), rtol=1e-6)
    assert not np.array_equal(by_field, deploy(defence, state, trained, None).clip)


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
