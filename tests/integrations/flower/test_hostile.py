"""Hostile clients: whatever one of them does, the round goes on without it, and it is named."""

import resource
import time
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from metasg_jax.integrations.flower import InProcessGrid, TrustedFedAvg
from tests.integrations.flower.test_records import head
from tests.integrations.flower.test_strategy import FEW, play
from tests.integrations.flower.world import (
    MODEL,
    NODES,
    accuracy,
    answer,
    client_app,
    number_of,
    record,
)

ODD = 2
"""Number of the node that is odd."""


def with_content(content):
    return lambda message, context, own: Message(RecordDict(content), reply_to=message)


def changed(**arrays):
    return lambda message, context, own: answer(message, OrderedDict(own, **arrays))


def weighing(value):
    return lambda message, context, own: answer(message, own, **{"num-examples": value})


def raising(message, context, own):
    raise ValueError("x" * 10_000)


def raw(data):
    def behave(message, context, own):
        sent = record(own)
        sent["head.bias"].data = data
        return answer(message, sent)

    return behave


METRICS = {"metrics": MetricRecord({"num-examples": 60})}
CASES = {
    "wrong shapes": (changed(**{"head.bias": np.zeros((3, 1))}), "head.bias has shape"),
    "a scalar": (changed(**{"head.weight": np.array(1.0)}), "head.weight has shape"),
    "one array more": (changed(extra=np.zeros(3)), "7 arrays, not 6"),
    "one array": (lambda m, c, own: answer(m, {"head.bias": own["head.bias"]}), "1 arrays, not 6"),
    "NaN": (changed(**{"head.bias": np.full(3, np.nan)}), "not finite"),
    "too large": (changed(**{"head.bias": np.full(3, 1e39)}), "not finite, or too large"),
    "NaN in a buffer": (changed(**{"norm.running_mean": np.full(8, np.nan)}), "buffers that are"),
    "strings": (changed(**{"head.bias": np.array(["a", "b", "c"])}), "not real numbers"),
    "100 MB too much": (raw(head((3,), body=bytes(100 * 2**20))), "bytes; "),
    "a head that asks for 4 EB": (raw(head((2**60,))), "head.bias has shape"),
    "rubbish": (raw(b"\x00" * 50), "no NumPy array"),
    "an empty message": (with_content({}), "0 ArrayRecords"),
    "an empty model": (with_content({"arrays": ArrayRecord()} | METRICS), "0 arrays, not 6"),
    "settings alone": (with_content({"config": ConfigRecord({"a": "b"})}), "0 ArrayRecords"),
    "two models": (
        with_content({"arrays": record(MODEL), "more": record(MODEL)} | METRICS),
        "2 ArrayRecords",
    ),
    "no weight": (with_content({"arrays": record(MODEL)}), "0 MetricRecords"),
    "other metrics": (
        with_content({"arrays": record(MODEL), "metrics": MetricRecord({"a": 1})}),
        "no num-examples",
    ),
    "a weight of 0": (weighing(0), "num-examples = 0"),
    "a weight below 0": (weighing(-5), "num-examples = -5"),
    "a weight that is NaN": (weighing(float("nan")), "num-examples = nan"),
    "a weight that is huge": (weighing(1e300), "num-examples = 1e"),
    "a list of weights": (weighing([60, 60]), "num-examples ="),
    "an error": (
        lambda m, c, own: Message(Error(code=7, reason="disk full"), reply_to=m),
        "error 7: disk full",
    ),
    "an exception": (raising, "error 0: ValueError: xxx"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_named_and_the_others_go_on(blind, case):
    behave, said = CASES[case]
    strategy = TrustedFedAvg(defender=blind, **FEW)
    result, grid = play(strategy, client_app({ODD: behave}), rounds=2)
    (odd,) = [n for n, c in grid.contexts.items() if number_of(c) == ODD]
    assert said in strategy.report["refused"][odd]
    assert list(strategy.report["refused"]) == [odd]
    counts = strategy.tally.of(odd)
    assert counts["refused"] == counts["rounds"] == 2 and said[:20] in counts["reason"]
    assert len(counts["reason"]) <= 200
    assert result.train_metrics_clientapp[2]["clients-refused"] == 1
    assert f"trust/{odd}" not in result.train_metrics_clientapp[2] or case in ("NaN", "too large")
    assert all(np.isfinite(a.numpy()).all() for a in result.arrays.values())
    assert accuracy(result.arrays) > accuracy(record(MODEL))


class RudeGrid(InProcessGrid):
    """What a node may do to the messages themselves."""

    def __init__(self, *args, turn, **kwargs):
        super().__init__(*args, **kwargs)
        self.turn = turn

    def send_and_receive(self, messages, *, timeout=None):
        replies = list(super().send_and_receive(messages, timeout=timeout))
        # none where evaluation is off
        return self.turn(sorted(replies, key=lambda r: r.metadata.src_node_id)) if replies else []


def of_another(reply, node):
    reply.metadata.__dict__["_src_node_id"] = node
    return reply


@pytest.mark.parametrize(
    ("turn", "refused", "said"),
    [
        (lambda r: [*r, r[0]], 1, "answered 2 times"),
        (lambda r: r[1:], 1, "no answer in time"),
        (lambda r: [*r[1:], of_another(r[0], 2**64 - 1)], 2, "was not asked"),
        (lambda r: r[:2], NODES - 2, "no answer in time"),
    ],
)
def test_who_answers_twice_or_not_at_all(blind, turn, refused, said):
    strategy = TrustedFedAvg(defender=blind, **FEW)
    grid = RudeGrid(client_app(), NODES, turn=turn)
    result = strategy.start(grid, record(MODEL), num_rounds=1)
    assert len(strategy.report["refused"]) == refused
    assert said in strategy.report["refused"].values()
    assert accuracy(result.arrays) > accuracy(record(MODEL))


@pytest.mark.parametrize("left", [0, 1])
def test_with_fewer_than_two_the_model_stays_and_nobody_is_blamed(blind, left):
    strategy = TrustedFedAvg(defender=blind, **FEW)
    grid = RudeGrid(client_app(), NODES, turn=lambda r: r[:left])
    result = strategy.start(grid, record(MODEL), num_rounds=2)
    assert not result.arrays
    assert result.train_metrics_clientapp[2]["clients-refused"] == NODES - left
    assert strategy.report["note"].startswith(f"{left} usable answers, at least 2 are needed")
    assert len(strategy.tally.suspects()) == NODES - left


def test_detection_hands_nothing_unusable_on(blind):
    """Flower's own strategies stop at such a reply, or take NaNs for a model."""
    odd = {0: CASES["NaN"][0], 1: CASES["one array"][0], 2: CASES["an empty message"][0]}
    strategy = TrustedFedAvg(defender=blind, detect_only=True, **FEW)
    result, _ = play(strategy, client_app(odd), rounds=2)
    assert all(np.isfinite(a.numpy()).all() for a in result.arrays.values())
    assert len(strategy.report["refused"]) == 3


def test_memory_does_not_hold_what_clients_sent_too_much(blind):
    strategy = TrustedFedAvg(defender=blind, **FEW)
    app = client_app({ODD: raw(head((3,), body=bytes(20 * 2**20)))})
    grid = InProcessGrid(app, NODES)
    strategy.start(grid, record(MODEL), num_rounds=1)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    strategy.start(grid, record(MODEL), num_rounds=3)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 2**20


@pytest.mark.slow
def test_a_thousand_rounds_in_flat_memory(blind, tmp_path):
    """Other nodes each round, a third of them odd, with checkpoints."""
    behaviours = [behave for name, (behave, _) in CASES.items() if "MB" not in name]
    turn = np.random.default_rng(0)

    def random_answer(message, context, own):
        if turn.random() < 0.3:
            return behaviours[turn.integers(len(behaviours))](message, context, own)
        return answer(message, own)

    app = client_app(dict.fromkeys(range(NODES), random_answer))
    strategy = TrustedFedAvg(defender=blind, checkpoint_dir=tmp_path, checkpoint_every=50, **FEW)
    sizes, began = [], time.perf_counter()

    def watch(round, arrays):
        if round % 100 == 0:
            sizes.append(_resident())

    strategy.start(InProcessGrid(app, NODES), record(MODEL), num_rounds=1000, evaluate_fn=watch)
    print(f"{time.perf_counter() - began:.0f} s, MB: {[round(s / 2**20) for s in sizes]}")
    # compiled programs come in the first rounds; Flower keeps each round's metrics
    assert sizes[-1] - sizes[2] < 30 * 2**20
    assert len(list(tmp_path.iterdir())) == 2


def _resident():
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # not Linux: the most so far
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
