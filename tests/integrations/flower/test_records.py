"""What a client's arrays may do: nothing but be arrays of the model's names and shapes."""

import io
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from metasg_jax.errors import ConfigError
from metasg_jax.integrations.flower.buffers import are_finite, average, is_buffer
from metasg_jax.integrations.flower.records import client_arrays, own_arrays, to_params, to_record
from tests.integrations.flower.world import MODEL, record

SENT = OrderedDict(b=np.arange(6, dtype=np.float32).reshape(2, 3), a=np.zeros(2, np.float32))


def head(shape, dtype="<f4", body=b""):
    """The bytes of an array that says of itself what it likes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + body


def with_b(data, stype="numpy.ndarray"):
    whole = dict(record(SENT))
    return ArrayRecord(whole | {"b": Array("float32", (2, 3), stype, data)})


def test_names_count_and_their_order_does_not():
    turned = OrderedDict(reversed(SENT.items()))
    found = client_arrays(record(turned), SENT)
    assert list(found) == ["b", "a"]
    np.testing.assert_array_equal(found["b"], SENT["b"])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.int64, bool])
def test_numbers_of_any_kind_are_let_through(dtype):
    kinds = OrderedDict((name, array.astype(dtype)) for name, array in SENT.items())
    np.testing.assert_array_equal(client_arrays(record(kinds), SENT)["b"], kinds["b"])


def test_columns_may_come_first():
    turned = OrderedDict(SENT, b=np.asfortranarray(SENT["b"]))
    np.testing.assert_array_equal(client_arrays(record(turned), SENT)["b"], SENT["b"])


HOSTILE = {
    "a shape": (lambda: record(OrderedDict(SENT, b=np.zeros((3, 2), np.float32))), "shape"),
    "too few": (lambda: record({"b": SENT["b"]}), "1 arrays, not 2; missing: a"),
    "too many": (lambda: record(OrderedDict(SENT, c=SENT["a"])), "3 arrays, not 2"),
    "other names": (lambda: record({"b": SENT["b"], "z" * 999: SENT["a"]}), "not of this model"),
    "none": (lambda: ArrayRecord(), "0 arrays, not 2"),
    "strings": (lambda: record(OrderedDict(SENT, b=np.full((2, 3), "x" * 9))), "not real numbers"),
    "complex": (lambda: record(OrderedDict(SENT, b=SENT["b"] * 1j)), "not real numbers"),
    "dates": (lambda: record(OrderedDict(SENT, b=SENT["b"].astype("M8[s]"))), "not real numbers"),
    "long floats": (
        lambda: record(OrderedDict(SENT, b=SENT["b"].astype(np.longdouble))),
        "not real numbers",
    ),
    "objects": (lambda: with_b(head((2, 3), "|O", b"\x80\x04N.")), "not real numbers"),
    "a pickle": (lambda: with_b(b"\x80\x04N."), "no NumPy array"),
    "nothing": (lambda: with_b(b""), "no NumPy array"),
    "text": (lambda: with_b(b"model" * 20), "no NumPy array"),
    "another format": (lambda: with_b(head((2, 3)), "torch"), "serialised as torch"),
    "a huge shape": (lambda: with_b(head((2**40, 2**20))), "shape"),
    "a negative shape": (lambda: with_b(head((-2, 3))), "shape"),
    "a cut-off body": (lambda: with_b(head((2, 3), body=bytes(20))), "bytes, not those"),
    "a long body": (lambda: with_b(head((2, 3), body=bytes(28))), "bytes, not those"),
    "100 MB": (lambda: with_b(head((2, 3), body=bytes(100 * 2**20))), "bytes; "),
    "a head that is a program": (
        lambda: with_b(b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').getpid()".ljust(32)),
        "no NumPy array",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_arrays_are_refused_by_name_at_no_cost(case):
    make, said = HOSTILE[case]
    sent = make()
    tracemalloc.start()
    with pytest.raises(ConfigError, match=said) as caught:
        client_arrays(sent, SENT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20  # neither what a head claims nor what follows it is copied
    assert len(str(caught.value)) < 400


def test_a_tree_there_and_back():
    tree = {"x": [np.ones(2), np.zeros((1, 2))], "y": {"k": np.array(3)}}
    back = to_params(to_record(tree), tree)
    np.testing.assert_array_equal(back["x"][1], tree["x"][1])
    assert back["y"]["k"] == 3
    with pytest.raises(ConfigError, match="no array y/k"):
        to_params({"x/0": tree["x"][0], "x/1": tree["x"][1]}, tree)
    np.testing.assert_array_equal(own_arrays(record(SENT))["a"], SENT["a"])


def test_buffers_by_name_and_by_kind():
    names = [n for n, a in MODEL.items() if is_buffer(n, a, ("*running_mean",))]
    assert names == ["norm.running_mean", "norm.num_batches_tracked"]


def test_buffers_are_weighed_and_who_is_far_away_counts_as_less_far():
    sent = OrderedDict(m=np.zeros(1, np.float32), n=np.array(0, np.int8), f=np.array(False))
    clients = [
        OrderedDict(m=np.array([v]), n=np.array(c), f=np.array(True))
        for v, c in [(0.0, 126), (1.0, 127), (2.0, 127)]
    ]
    found = average(sent, clients, [1.0, 1.0, 2.0])
    assert found["m"].tolist() == [1.25] and found["m"].dtype == np.float32
    assert found["n"] == 127 and found["n"].dtype == np.int8 and found["f"]
    clients[2]["m"] = np.array([1e29])
    # the median distance from 1 is 1: it counts as 1 + 10
    assert average(sent, clients, [1.0, 1.0, 2.0])["m"].tolist() == [(0 + 1 + 2 * 11) / 4]
    assert average(sent, [], [])["m"] is sent["m"]


def test_buffers_that_are_no_numbers():
    assert are_finite(OrderedDict(a=np.array([1, 2]), b=np.zeros(0)))
    for value in (np.nan, np.inf, 1e38):
        assert not are_finite(OrderedDict(a=np.array([0.0, value])))
