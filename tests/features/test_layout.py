"""Which stretch of a raveled model is which, for models of strangers."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.errors import ConfigError
from metasg_jax.features.layout import MOST_LAYERS, Span, layout_of

X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)


def model(**shapes):
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def plain(p, x):
    hidden = jnp.maximum(x @ p["w1"] + p["b1"][None], 0)
    return hidden @ p["w2"] + p["b2"][None]


def test_the_last_matrix_is_found_by_what_it_does():
    """Names sort the biases first; a hidden matrix is as wide as there are classes."""
    params = model(w1=(6, 4), b1=(4,), w2=(4, 4), b2=(4,))
    layout = layout_of(params, plain, X)
    assert layout.last is not None
    assert layout.last.kernel == Span(32, 48) and layout.last.bias == Span(4, 8)
    assert not layout.last.classes_first and layout.num_classes == 4
    assert layout.layers == ((Span(8, 32),), (Span(32, 48),)) and layout.size == 48


def test_classes_may_be_rows_and_the_last_may_come_first():
    params = {"a_out": model(w=(3, 4)), "z_in": model(w=(4, 6))}

    def apply(p, x):
        return jnp.maximum(x @ p["z_in"]["w"].T, 0) @ p["a_out"]["w"].T

    layout = layout_of(params, apply, X)
    assert layout.last is not None and layout.last.classes_first and layout.last.bias is None
    assert layout.layers[-1] == (Span(0, 12),)


def test_without_running_it_the_last_narrow_matrix_with_a_bias_is_taken():
    layout = layout_of(list(model(a=(6, 8), b=(8,), c=(8, 3), d=(3,)).values()))
    assert layout.last is not None and layout.last.shape == (8, 3)
    assert layout_of(list(model(a=(6, 8), b=(5,)).values())).last is None


def test_a_name_decides_and_a_wrong_one_is_told():
    params = model(w1=(6, 4), b1=(4,), w2=(4, 3), b2=(3,))
    assert layout_of(params, last="w2").last == layout_of(params, plain, X).last
    with pytest.raises(ConfigError, match=r"last = 'head'.*w1, w2"):
        layout_of(params, last="head")


def test_deep_models_are_looked_at_in_a_few_parts_that_cover_all():
    shapes = {f"l{i:02d}": (3, 3) for i in range(30)}
    layout = layout_of(model(**shapes, tail=(3,)))
    assert len(layout.layers) == MOST_LAYERS
    covered = sorted(span for layer in (*layout.layers, layout.rest) for span in layer)
    assert covered[0].start == 0 and covered[-1].stop == layout.size
    assert all(a.stop == b.start for a, b in itertools.pairwise(covered))
