"""Which inputs an update writes to, beside NumPy in float64 and a trigger's own pixels."""

import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.features import ServerData, layout_of
from metasg_jax.features.base import rows_of
from metasg_jax.features.inputs import NAMES, inputs, root_inputs
from tests.rounds import round_of

N, IN, OUT = 5, 9, 4
RNG = np.random.default_rng(0)


def layout(outputs_first):
    """Layout of one matrix and its bias, in the order of JAX or of PyTorch."""
    shape = (OUT, IN) if outputs_first else (IN, OUT)
    params = {"a": np.zeros(shape, np.float32), "b": np.zeros(OUT, np.float32)}

    def apply(p, x):
        return x @ (p["a"].T if outputs_first else p["a"]) + p["b"][None]

    return layout_of(params, apply, RNG.normal(size=(2, IN)).astype(np.float32))


def seen(matrices, outputs_first=False, root=None, family=inputs):
    """Features [n, 6] of updates [n, IN, OUT] of the matrix."""
    order = (0, 2, 1) if outputs_first else (0, 1, 2)
    flat = np.transpose(matrices, order).reshape(len(matrices), -1)
    flat = np.concatenate([flat, np.zeros((len(flat), OUT))], axis=1)
    if root is not None:
        turned = root.T if outputs_first else root
        root = np.concatenate([turned.ravel(), np.zeros(OUT)])
    form = layout(outputs_first)
    got = family(rows_of(round_of(flat, None, root), form), ServerData(None, None, form))
    return dict(zip(NAMES, np.asarray(got, np.float64).T, strict=True))


def oracle(matrices, usual):
    energy = np.square(matrices.astype(np.float64)).sum(axis=2)
    shares = energy / energy.sum(axis=1, keepdims=True)
    usual = usual(shares)
    ratio = np.log((shares + 0.1 / IN) / (usual + 0.1 / IN))
    return {
        "input_peak_first": ratio.max(axis=1),
        "input_divergence_first": (shares * ratio).sum(axis=1),
        "input_excess_first": np.maximum(shares - 3 * usual, 0).sum(axis=1),
    }


@pytest.mark.parametrize("outputs_first", [False, True])
@pytest.mark.parametrize("family", [inputs, root_inputs])
def test_equals_numpy_whichever_way_the_matrix_lies(family, outputs_first):
    rows, root = RNG.normal(size=(N, IN, OUT)), RNG.normal(size=(IN, OUT))

    def usual(shares):
        if family is inputs:
            return np.median(shares, axis=0)
        energy = np.square(root).sum(axis=1)
        return energy / energy.sum()

    got = seen(rows, outputs_first, root, family)
    for name, want in oracle(rows, usual).items():
        np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(got[name], got[name.replace("first", "most")])


@pytest.mark.parametrize("family", [inputs, root_inputs])
def test_who_writes_to_an_input_that_others_leave_alone_stands_out(family):
    """Two of five share a trigger at input 7; scale does not matter."""
    rows = RNG.normal(size=(N, IN, OUT))
    rows[:, 7] *= 0.01
    rows[:2, 7] = 3.0
    root = np.where(np.arange(IN)[:, None] == 7, 0.01, 1.0) * RNG.normal(size=(IN, OUT))
    first, second = seen(rows, root=root, family=family), seen(50 * rows, root=root, family=family)
    for name in NAMES:
        assert first[name][:2].min() > first[name][2:].max() + 0.1, name
        np.testing.assert_allclose(first[name], second[name], rtol=1e-4, atol=1e-5)


def test_rows_and_roots_of_nothing_are_no_fault():
    rows = np.zeros((N, IN, OUT))
    for family in (inputs, root_inputs):
        got = seen(rows, root=np.zeros((IN, OUT)), family=family)
        assert all(np.isfinite(v).all() for v in got.values())


def test_a_model_without_matrices_has_one_input():
    form = layout_of({"b": np.zeros(3, np.float32)})
    rows = rows_of(round_of(RNG.normal(size=(N, 3))), form)
    assert not jnp.any(inputs(rows, ServerData(None, None, form)))
