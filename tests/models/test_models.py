"""What every registered model promises, and its layers against the textbook ones."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.errors import ConfigError
from metasg_jax.models import MODELS, make_model
from metasg_jax.models.layers import GroupNorm, PooledConvolution, clip_units, convolve, max_pool

METHODS = ("auto", "patches", "native")

# 16 x 16 is the smallest that two 5 x 5 convolutions with pooling leave a pixel of
SETTINGS = {
    "mlp": ((4, 4, 1), (7, 5)),
    "cnn": ((16, 16, 3), (4, 5, 6)),
    **{f"resnet{depth}": ((6, 6, 3), (4, 6)) for depth in (8, 18, 20)},
}
BLOCKS = {"resnet18": 2, "resnet20": 3}  # in a stage; a unit is a channel of one of them
CLASSES = 3

every_model = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in BLOCKS else n for n in MODELS]
)


apply = jax.jit(lambda model, *args: model.apply(*args), static_argnums=0)
activations = jax.jit(lambda model, *args: model.activations(*args), static_argnums=0)
ravel = jax.jit(lambda model, params: model.ravel(params), static_argnums=0)
unravel = jax.jit(lambda model, w: model.unravel(w), static_argnums=0)


def build(name):
    shape, hidden = SETTINGS[name]
    return make_model(name, shape, CLASSES, hidden)


@functools.cache
def params_of(model, seed=0):
    """With biases that are not 0."""
    params = jax.jit(model.init)(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.1 * rng.normal(size=leaf.shape).astype("f"), params
    )


def images(model, count=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(count, *model.input_shape)).astype(np.float32)


def test_every_registered_model_is_tested():
    assert SETTINGS.keys() == MODELS.keys()


@every_model
def test_shapes(name):
    model = build(name)
    params, x = params_of(model), images(model)
    assert jax.eval_shape(model.apply, params, x).shape == (6, CLASSES)
    assert jax.eval_shape(model.activations, params, x).shape == (6, model.num_units)
    assert model.num_units == sum(SETTINGS[name][1]) * BLOCKS.get(name, 1)
    assert model.num_params == sum(leaf.size for leaf in jax.tree.leaves(params))


@every_model
def test_ravel_and_unravel_are_inverse(name):
    model = build(name)
    params = params_of(model)
    w = ravel(model, params)
    assert w.shape == (model.num_params,) and w.dtype == jnp.float32
    jax.tree.map(np.testing.assert_array_equal, unravel(model, w), params)
    np.testing.assert_array_equal(ravel(model, unravel(model, 2 * w)), 2 * w)


@every_model
def test_unravel_first_used_inside_jit_leaves_no_tracer_behind(name):
    shape, hidden = SETTINGS[name]
    model = make_model(name, shape, CLASSES + 1, hidden)  # a model that nobody has raveled yet
    w = jnp.arange(model.num_params, dtype=jnp.float32)
    inside = jax.jit(lambda w: model.ravel(model.unravel(w)))(w)
    np.testing.assert_array_equal(inside, model.ravel(model.unravel(w)))


@every_model
def test_equal_models_are_one_static_argument(name):
    traces = []

    def run(model, params, x):
        traces.append(1)
        return model.apply(params, x)

    jitted = jax.jit(run, static_argnums=0)
    for _ in range(2):
        model = build(name)
        jitted(model, params_of(model), images(model))
    assert len(traces) == 1


@every_model
def test_jit_equals_eager(name):
    model = build(name)
    params, x = params_of(model), images(model)
    np.testing.assert_allclose(
        apply(model, params, x), model.apply(params, x), rtol=1e-4, atol=1e-5
    )


@every_model
def test_images_do_not_mix(name):
    model = build(name)
    params, x = params_of(model), images(model)
    together = apply(model, params, x)
    alone = jnp.concatenate([apply(model, params, image[None]) for image in x])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


@every_model
def test_vmap_over_parameters_equals_a_loop(name):
    model = build(name)
    clients, x = [params_of(model, seed) for seed in range(3)], images(model)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *clients)
    batched = jax.jit(jax.vmap(model.apply, (0, None)))(stacked, x)
    loop = np.stack([apply(model, params, x) for params in clients])
    np.testing.assert_allclose(batched, loop, rtol=1e-4, atol=1e-5)


@every_model
def test_an_infinite_clip_is_none_and_a_zero_clip_leaves_the_heads_bias(name):
    model = build(name)
    params, x = params_of(model), images(model)
    free = apply(model, params, x, jnp.full((model.num_units,), jnp.inf))
    np.testing.assert_allclose(free, apply(model, params, x), rtol=1e-5, atol=1e-6)
    shut = apply(model, params, x, jnp.zeros((model.num_units,)))
    np.testing.assert_allclose(shut, np.tile(params["head"]["bias"], (6, 1)), rtol=1e-5)


@every_model
def test_each_unit_has_its_own_bound(name):
    """Pruning unit u changes the logits exactly where unit u is active; all units in one vmap."""
    model = build(name)
    params, x = params_of(model), images(model)
    clips = jnp.where(jnp.eye(model.num_units, dtype=bool), 0.0, jnp.inf)
    pruned = jax.jit(jax.vmap(model.apply, (None, None, 0)))(params, x, clips)
    changed = np.abs(pruned - apply(model, params, x)[None]).max(axis=-1) > 1e-6
    active = np.asarray(activations(model, params, x)).T > 0
    assert not changed[~active].any()
    last = SETTINGS[name][1][-1]  # a unit before the last layer may be cut off by dead ones
    np.testing.assert_array_equal(changed[-last:], active[-last:])
    assert changed[:-last].any(axis=1).mean() > 0.5


@every_model
def test_activations_are_never_negative_nor_above_a_bound(name):
    model = build(name)
    params, x = params_of(model), images(model)
    units = np.asarray(activations(model, params, x))
    assert (units >= 0).all() and (units.max(axis=0) > 0).mean() > 0.5
    clip = np.where(np.arange(model.num_units) % 2, np.inf, units.max(axis=0) / 2)
    bounded = np.asarray(activations(model, params, x, clip.astype(np.float32)))
    assert (bounded <= clip).all()
    # the first layer's own bounds only; later ones also see what these leave of it
    first = SETTINGS[name][1][0]
    np.testing.assert_allclose(bounded[:, :first], np.minimum(units, clip)[:, :first], rtol=1e-6)
    assert np.abs(bounded - np.minimum(units, clip))[:, first:].max() > 1e-4


@pytest.mark.parametrize(
    ("name", "hidden", "count"),
    [
        ("resnet18", (64, 128, 256, 512), 11_173_962),
        ("resnet20", (16, 32, 64), 272_474),
        ("resnet8", (16, 32, 64), 78_042),
    ],
)
def test_residual_networks_have_the_parameters_of_the_literature(name, hidden, count):
    """The counts with batch normalisation; a shortcut that changes shape is a 1x1 convolution."""
    assert make_model(name, (32, 32, 3), 10, hidden).num_params == count


def test_images_that_stages_halve_away_are_refused():
    with pytest.raises(ConfigError, match=r"hidden = .*at least 4x4, got 2x2"):
        make_model("resnet8", (2, 2, 1), 3, (4, 4, 4))


def test_group_normalisation_is_flaxs():
    x = np.random.default_rng(0).normal(2.0, 3.0, size=(6, 3, 4, 5)).astype(np.float32)
    layer, theirs = GroupNorm(), nn.GroupNorm(num_groups=2, epsilon=1e-5)
    params = {"scale": np.arange(6.0, dtype="f"), "bias": np.ones(6, "f")}
    want = theirs.apply({"params": params}, x.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0)
    np.testing.assert_allclose(layer.apply({"params": params}, x), want, rtol=1e-4, atol=1e-4)


def test_a_normalised_model_sees_what_is_left_of_an_image():
    plain, (shift, scale) = build("cnn"), ((0.5, 0.4, 0.45), (0.25, 0.2, 0.3))
    model = make_model(
        "cnn", plain.input_shape, CLASSES, SETTINGS["cnn"][1], shift=shift, scale=scale
    )
    params, x = params_of(plain), images(plain)
    seen = (x - np.float32(shift)) / np.float32(scale)
    np.testing.assert_allclose(
        apply(model, params, x), apply(plain, params, seen), rtol=1e-4, atol=1e-5
    )
    assert model.num_params == plain.num_params


def convolution(method, size, stride=1):
    """Output and both gradients under a random cotangent."""

    def run(x, kernel, cotangent):
        out, backward = jax.vjp(lambda x, k: convolve(x, k, size, method, stride), x, kernel)
        return out, *backward(cotangent)

    return run


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shared", [False, True])
def test_patches_are_xlas_convolution(size, channels, shared):
    """Forward and both gradients, under a vmap over clients with own or shared weights."""
    rng = np.random.default_rng(size)
    h, w, batch, clients = 9, 6, 3, 2
    x = rng.normal(size=(clients, channels, h, w, batch)).astype(np.float32)
    kernel = rng.normal(size=(clients, size * size * channels, 4)).astype(np.float32)
    out = rng.normal(size=(clients, 4, h - size + 1, w - size + 1, batch)).astype(np.float32)
    kernel = kernel[0] if shared else kernel
    over = (0, None if shared else 0, 0)
    got = jax.jit(jax.vmap(convolution("patches", size), over))(x, kernel, out)
    want = jax.jit(jax.vmap(convolution("native", size), over))(x, kernel, out)
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "sides"), [(1, (6, 5)), (3, (8, 7))])
def test_patches_with_a_stride_are_xlas_convolution(size, sides):
    rng = np.random.default_rng(size)
    x = rng.normal(size=(2, 3, *sides, 4)).astype(np.float32)
    kernel = rng.normal(size=(2, size * size * 3, 5)).astype(np.float32)
    out = rng.normal(size=(2, 5, *((s - size) // 2 + 1 for s in sides), 4)).astype(np.float32)
    got, want = (
        jax.jit(jax.vmap(convolution(method, size, 2)))(x, kernel, out)
        for method in ("patches", "native")
    )
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_auto_means_patches_on_a_cpu():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((4, 3))
    named = [str(jax.make_jaxpr(convolve, static_argnums=(2, 3))(x, kernel, 2, m)) for m in METHODS]
    assert "conv_general_dilated" in named[2] and "conv_general_dilated" not in named[1]
    assert (named[0] == named[1]) == (jax.default_backend() == "cpu")


def test_block_is_convolution_bias_relu_and_pooling_in_the_usual_order():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 7, 3)).astype(np.float32)
    kernel, bias = rng.normal(size=(2, 2, 3, 4)).astype("f"), rng.normal(size=4).astype("f")
    layer = PooledConvolution(features=4, size=2)
    params = {"kernel": kernel.reshape(-1, 4), "bias": bias}
    got = layer.apply({"params": params}, x.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0)
    layout = ("NHWC", "HWIO", "NHWC")
    want = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout)
    want = nn.max_pool(nn.relu(want + bias.reshape(1, 1, 1, 4)), (2, 2), (2, 2))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_convolution_starts_like_a_layer_of_its_fan_in():
    layer = PooledConvolution(features=400, size=5)
    params = layer.init(jax.random.key(0), jnp.zeros((3, 6, 6, 1)))
    np.testing.assert_allclose(params["params"]["kernel"].std(), (5 * 5 * 3) ** -0.5, rtol=0.05)


@pytest.mark.parametrize("shape", [(3, 8, 6, 2), (2, 7, 5, 1)])
def test_max_pool_is_flaxs_and_ties_go_to_the_first(shape):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, size=shape).astype(np.float32)  # many ties
    weights = jnp.asarray(rng.normal(size=(shape[0], shape[1] // 2, shape[2] // 2, shape[3])))

    def flaxs(x):
        return nn.max_pool(x.transpose(3, 1, 2, 0), (2, 2), (2, 2)).transpose(3, 1, 2, 0)

    np.testing.assert_array_equal(max_pool(x), flaxs(x))
    gradient = jax.grad(lambda x: (weights * max_pool(x)).sum())(x)
    want = np.zeros(shape)
    for f, i, j, b in np.ndindex(weights.shape):
        block = x[f, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, b]
        row, column = np.unravel_index(np.argmax(block), (2, 2))
        want[f, 2 * i + row, 2 * j + column, b] = weights[f, i, j, b]
    np.testing.assert_array_equal(gradient, want)


def test_clip_units_reads_its_own_part():
    x, clip = np.full((2, 1, 1, 3), 5.0, np.float32), np.arange(8, dtype=np.float32)
    clipped = clip_units(x, clip, 3)
    np.testing.assert_array_equal(clipped, np.tile(np.float32([3, 4, 5]), (2, 1, 1, 1)))
    assert clip_units(x, None, 3) is x
