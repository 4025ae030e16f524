"""The recorded answers are complete, and those of the versions that the benchmarks name."""

import json
import re

import pytest
from benchmarks.process import ROOT

from tests.peers.calls import PEERS
from tests.peers.comparison import RECORDED
from tests.peers.inputs import cases

RECORD = json.loads(RECORDED.read_text())
PINS = dict(
    re.findall(r"^([\w-]+)==(\S+)", (ROOT / "benchmarks/requirements-peers.txt").read_text(), re.M)
)


def test_every_peer_is_recorded():
    assert list(RECORD) == list(PEERS)


@pytest.mark.parametrize("peer", PEERS)
def test_versions_are_those_of_the_benchmarks(peer):
    versions = RECORD[peer]["versions"]
    assert set(PEERS[peer][1]) <= versions.keys()
    # a local label tells a build apart, not a version
    assert {name: v.partition("+")[0] for name, v in versions.items()} == {
        name: PINS[name] for name in versions
    }


@pytest.mark.parametrize("peer", PEERS)
def test_every_call_was_made_on_every_input(peer):
    for call, outputs in RECORD[peer]["outputs"].items():
        assert list(outputs) == list(cases(RECORD[peer]["seed"])), call
