"""Models from elsewhere become rows; what does not fit is named."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metasg_jax.aggregators import FLTrust, FoolsGold, Krum, Mean
from metasg_jax.errors import ConfigError
from metasg_jax.fl import next_model, receive
from tests.fl.hostile import HOSTILE_LEAVES, HOSTILE_TREES

GLOBAL = {"kernel": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float32)}


def moved(by):
    return jax.tree.map(lambda leaf: leaf + np.float32(by), GLOBAL)


def test_rows_are_global_minus_local_in_the_order_of_the_tree():
    local = {"kernel": GLOBAL["kernel"] + np.arange(6.0).reshape(2, 3), "bias": np.full(3, 7.0)}
    got = receive(GLOBAL, [moved(1), local], weights=[3, 1], client_ids=[5, 2], round=4)
    np.testing.assert_allclose(got.updates[0], -1)
    np.testing.assert_allclose(got.updates[1], [-7, -7, -7, 0, -1, -2, -3, -4, -5])
    np.testing.assert_allclose(got.weights, [3, 1])
    assert got.client_ids.tolist() == [5, 2] and int(got.round) == 4 and got.root_update is None
    assert got.updates.dtype == jnp.float32


def test_a_rule_reads_them_and_counts_what_is_not_finite():
    got = receive(GLOBAL, [moved(1), moved(3), moved(np.nan)])
    update, _, info = Mean()(jax.random.key(0), (), got)
    np.testing.assert_allclose(update, -2)
    assert int(info["rejected"]) == 1


def test_the_servers_own_model_is_the_root_update():
    got = receive(GLOBAL, [moved(2), moved(-2)], root_params=moved(1))
    np.testing.assert_allclose(FLTrust()(None, (), got)[0], -1, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"client_params": []}, r"client_params = \[\]: at least one"),
        ({"weights": [1.0, -2.0]}, r"weights\[1\] = -2: at least 0"),
        ({"weights": [1.0, np.nan]}, r"weights\[1\] = nan: at least 0 and finite"),
        ({"weights": [0.0, 0.0]}, "weights: all 0; at least one above 0"),
        ({"weights": [1.0]}, "weights: 1 of them, not one for each of 2"),
        ({"client_ids": [3, 3]}, r"client_ids = \[3, 3\]: 2 different"),
        ({"root_params": {"kernel": np.ones(2)}}, "root_params: other structure"),
        (
            {"client_params": [moved(1), {"bias": np.ones(3)}]},
            r"client_params\[1\]: other structure",
        ),
        (
            {"client_params": [{**GLOBAL, "bias": np.ones((1, 3))}] * 2},
            r"client_params\[0\]: bias has shape \(1, 3\), not \(3,\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        receive(GLOBAL, **{"client_params": [moved(1), moved(2)], **arguments})


# What is cast: in the sender's own width the difference would be rounded, or infinite.


@pytest.mark.parametrize(
    ("dtype", "sent", "local"),
    [
        (jnp.bfloat16, 1.0, 0.001),
        (jnp.float16, 40000.0, -40000.0),
        (jnp.float8_e4m3fn, 400.0, -400.0),
        (np.float64, 1.0 + 1e-12, 1.0),
        (np.float64, 1e300, 1e300),
    ],
)
def test_what_is_narrow_or_wide_is_cast_before_the_difference(dtype, sent, local):
    sent, local = np.array([sent], dtype), np.array([local], dtype)
    if sent.dtype == np.float64 and sent[0] > 1e38:
        with pytest.raises(ConfigError, match=r"global_params: .* too large for float32"):
            receive({"w": sent}, [{"w": local}])
        return
    got = receive({"w": sent}, [{"w": local}])
    right = sent.astype(np.float64) - local.astype(np.float64)
    np.testing.assert_array_equal(got.updates[0], right.astype(np.float32))
    update, _, info = Mean()(None, (), got)
    assert int(info["rejected"]) == 0
    new = next_model({"w": sent}, update)["w"]
    assert new.dtype == dtype and new[0] == local[0]


REAL = [np.float16, np.float32, np.float64, jnp.bfloat16, np.int8, np.uint8, np.int64, np.uint64]


@st.composite
def rounds(draw):
    """(the model that is sent, n local ones): leaves of mixed shapes and dtypes, some empty."""

    def leaf(shape, dtype):
        if np.dtype(dtype).kind in "iu":
            low, high = (0, 99) if np.dtype(dtype).kind == "u" else (-99, 99)
            return draw(arrays(dtype, shape, elements=st.integers(low, high)))
        values = draw(arrays(np.float32, shape, elements=st.floats(-99, 99, width=16)))
        return np.asarray(values, dtype)

    kinds = st.tuples(
        st.sampled_from([(), (0,), (1,), (2, 3), (3, 0), (4,)]), st.sampled_from(REAL)
    )
    forms = [((2,), draw(st.sampled_from(REAL[:4]))), *draw(st.lists(kinds, max_size=3))]

    def tree(free):
        leaves = []
        for shape, dtype in forms:
            floating = np.dtype(dtype).kind not in "iu"
            # a client may send other floats, or whole numbers for floats
            dtype = draw(st.sampled_from(REAL)) if free and floating else dtype
            leaves.append(leaf(shape, dtype))
        return {"first": leaves[0], "rest": leaves[1:]}

    return tree(False), [tree(True) for _ in range(draw(st.integers(1, 3)))]


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(rounds(), st.data())
def test_rows_and_the_next_model_are_those_of_float64(drawn, data):
    sent, clients = drawn
    n = len(clients)
    weights = data.draw(st.lists(st.floats(1e-30, 1e30), min_size=n, max_size=n))
    ids = data.draw(st.lists(st.integers(0, 2**31 - 1), min_size=n, max_size=n, unique=True))
    got = receive(sent, clients, weights=weights, client_ids=ids)

    def floats(tree):
        leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(sent), strict=True)
        kept = [a for a, like in leaves if like.dtype.kind not in "iu"]
        return np.concatenate([np.asarray(a, np.float64).ravel() for a in kept])

    rows = np.stack([floats(sent) - floats(each) for each in clients])
    np.testing.assert_array_equal(got.updates, rows.astype(np.float32))
    np.testing.assert_array_equal(got.weights, np.float32(weights))
    assert got.client_ids.tolist() == ids
    share = np.float64(weights) / np.sum(weights)
    update = np.asarray(_mean(np.asarray(got.updates), np.asarray(got.weights)))
    np.testing.assert_allclose(update, share @ rows, rtol=1e-4, atol=1e-4)
    new = next_model(sent, update, clients)
    for leaf, like, *local in zip(*map(jax.tree.leaves, (new, sent, *clients)), strict=True):
        assert leaf.dtype == like.dtype and leaf.shape == like.shape
        if like.dtype.kind in "iu":
            expected = np.rint(np.mean([np.float64(each) for each in local], axis=0))
            np.testing.assert_array_equal(leaf, expected.astype(like.dtype))
    moved = floats(sent) - np.float64(update)
    np.testing.assert_allclose(floats(new), moved, rtol=1e-1, atol=1e-1)


def _mean(rows, weights):
    """The rule's formula, without a compilation for every drawn shape."""
    share = np.float32(weights) / np.float32(weights).sum()
    return share @ rows


def test_weights_of_any_size_are_shares():
    for size in (1e-37, 1e-20, 1.0, 1e30):
        got = receive(GLOBAL, [moved(1), moved(3)], weights=[size, 3 * size])
        np.testing.assert_allclose(Mean()(None, (), got)[0], -2.5, rtol=1e-6)


# What is left out: whole numbers and booleans.


def counted(value, batches, dtype=np.int64):
    return {"w": np.full(3, value, np.float32), "batches": np.array(batches, dtype)}


def test_counters_are_in_no_distance():
    """Krum chose the row whose counter was in the middle: an attacker's."""
    clients = [counted(0.1, b) for b in (100, 300, 500, 700)] + [counted(9.0, 200)] * 2
    got = receive(counted(0.0, 0), clients)
    assert got.updates.shape == (6, 3) and int(Krum(f=2)(None, (), got)[2]["selected"]) == 0


@pytest.mark.parametrize(
    ("dtype", "sent", "mean"),
    [
        (np.int32, [10, 11], 10),
        (np.int32, [11, 12], 12),
        (np.int32, [2**24 + 1] * 3, 2**24 + 1),
        (np.int64, [2**60 + 1, 2**60 + 3, 2**60 + 8], 2**60 + 4),
        (np.int64, [-(2**63), -(2**63)], -(2**63)),
        (np.uint64, [2**64 - 1, 2**64 - 1, 2**64 - 4], 2**64 - 2),
        (np.uint8, [5, 7], 6),
        (np.uint8, [250, 254], 252),
        (bool, [True, True, False], True),
        (bool, [True, False], False),
    ],
)
def test_counters_are_averaged_apart_and_exactly(dtype, sent, mean):
    model, clients = counted(1.0, 0, dtype), [counted(1.0, each, dtype) for each in sent]
    new = next_model(model, np.zeros(3), clients)["batches"]
    assert new.dtype == dtype and new == mean
    assert next_model(model, np.zeros(3))["batches"] == model["batches"]


def test_counters_are_those_of_the_clients_that_are_kept():
    model = counted(1.0, 0)
    clients = [counted(1.0, 4), counted(1.0, 9), counted(np.nan, 999)]
    assert next_model(model, np.zeros(3), clients)["batches"] == 6
    assert next_model(model, np.zeros(3), clients, kept=[0, 1, 0])["batches"] == 9


# What is refused, always by name.


@pytest.mark.parametrize("kind", HOSTILE_LEAVES)
@pytest.mark.filterwarnings("error")
def test_a_leaf_that_holds_no_real_numbers_is_named(kind):
    bad = {**GLOBAL, "bias": HOSTILE_LEAVES[kind]}
    with pytest.raises(ConfigError, match=r"^client_params\[1\]: bias"):
        receive(GLOBAL, [moved(1), bad])
    with pytest.raises(ConfigError, match=r"^root_params: bias"):
        receive(GLOBAL, [moved(1)], root_params=bad)


@pytest.mark.parametrize("kind", HOSTILE_TREES)
def test_a_tree_of_another_kind_is_named(kind):
    with pytest.raises(ConfigError, match=r"^client_params\[0\]: (other structure|not a tree)"):
        receive(GLOBAL, [HOSTILE_TREES[kind]])


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ({"w": np.ones(3, np.uint8)}, "global_params: no floating leaf"),
        ({"w": np.ones(0)}, "global_params: no floating leaf"),
        ({}, "global_params: no floating leaf"),
        ({"w": np.ones(3), "v": np.array("x")}, "global_params: v holds <U1"),
        ({"w": np.array([1.0, np.nan])}, "global_params: entries that are not finite"),
    ],
)
def test_a_model_that_nothing_can_be_learned_from_is_refused(sent, why):
    with pytest.raises(ConfigError, match=f"^{why}"):
        receive(sent, [sent])


def test_a_counter_that_does_not_fit_is_named():
    model = counted(1.0, 0, np.int32)
    for bad in (np.float32(3.0), np.array(2**40), np.float64(np.nan)):
        with pytest.raises(ConfigError, match=r"^client_params\[0\]: batches holds"):
            receive(model, [{**counted(1.0, 0), "batches": bad}])


NO_NUMBERS = {
    "text": "1", "bytes": b"1", "complex": 1j, "nothing": None, "huge": 10**400,
    "too long to be written": 10**5000, "an object": object(), "a list": [1.0], "tiny": 1e-46,
}  # fmt: skip


@pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS)
@pytest.mark.parametrize("where", ["weights", "client_ids", "round"])
def test_numbers_that_are_none_are_named(where, value):
    arguments = {"round": value} if where == "round" else {where: [1, value]}
    name = where if where == "round" else f"{where}[1]"
    with pytest.raises(ConfigError, match=r"^" + re.escape(name)):
        receive(GLOBAL, [moved(1), moved(2)], **arguments)


@pytest.mark.parametrize(
    "value", [1.2, np.nan, np.inf, 1.0, -1, 2**31, 2**32 + 1, np.uint64(2**63)]
)
def test_ids_and_rounds_are_whole_and_fit_32_bits(value):
    """Wrapped or cut, two clients would be one."""
    with pytest.raises(ConfigError, match=r"^client_ids\[1\] = .*: a whole number from 0 to 2147"):
        receive(GLOBAL, [moved(1), moved(2)], client_ids=[1, value])
    with pytest.raises(ConfigError, match=r"^round = .*: a whole number from 0 to 2147"):
        receive(GLOBAL, [moved(1)], round=value)


@pytest.mark.parametrize("ids", [7, "ab", np.array([["a"], ["b"]])])
def test_ids_that_are_no_list_of_numbers_are_refused(ids):
    with pytest.raises(ConfigError, match=r"^client_ids"):
        receive(GLOBAL, [moved(1), moved(2)], client_ids=ids)


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        ([1.0, 1e-39], r"weights\[1\] = 1e-39: 0 or at least 1.17549e-38"),
        ([3e38, 3e38], r"weights: a sum of 6e\+38: at most"),
        (2.0, "weights = 2.0: one for each of 2"),
    ],
)
def test_weights_are_judged_as_float32(weights, why):
    with pytest.raises(ConfigError, match=f"^{why}"):
        receive(GLOBAL, [moved(1), moved(2)], weights=weights)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, jnp.int32, int])
def test_whole_numbers_of_every_library_are_ids(kind):
    got = receive(GLOBAL, [moved(1), moved(2)], client_ids=[kind(7), kind(9)], round=kind(3))
    assert got.client_ids.tolist() == [7, 9] and int(got.round) == 3


@pytest.mark.parametrize("ids", [[0, 1, 2, 3], [1, 2, 3, 4], [7, 8, 9, 10]])
def test_a_history_is_no_other_clients(ids):
    """Ids beyond the last took the last one's history: sybils went through, honest ones not."""
    rows = np.array([[2.0, 2.0], [2.0, 2.0], [3.0, 0.0], [0.0, 5.0]], np.float32)
    got = receive({"w": np.zeros(2)}, [{"w": -row} for row in rows], client_ids=ids)
    rule = FoolsGold(num_clients=4)
    state = rule.init(4, 2)
    for _ in range(2):
        update, state, info = jax.jit(rule)(None, state, got)
        np.testing.assert_allclose(update, [1.5, 2.5], rtol=1e-6)
        np.testing.assert_allclose(info["alpha"], [0, 0, 1, 1], atol=1e-6)
