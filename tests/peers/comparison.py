"""Our side of the comparison, and what the peers answered.

``recorded.json`` holds the answers, so that agreement is checked where no peer is installed. The
variable PEERS_RECORD names a file of fresh answers, which replace those of the same peers.
"""

import functools
import json
import os
from pathlib import Path

import jax
import numpy as np

from metasg_jax.attacks import UNTARGETED
from tests.attacks.crafting import crafted_rows
from tests.peers.inputs import byzantine, cases
from tests.rounds import round_of

RECORDED = Path(__file__).with_name("recorded.json")


@functools.cache
def answers() -> dict:
    """{peer: {seed, versions, outputs}}."""
    record = json.loads(RECORDED.read_text())
    fresh = os.environ.get("PEERS_RECORD")
    return record | (json.loads(Path(fresh).read_text()) if fresh else {})


def answered(peer: str, call: str):
    """(name, rows f64[n, d], f, the peer's answer) of every case."""
    entry = answers()[peer]
    for case, rows in cases(entry["seed"]).items():
        yield case, rows, byzantine(len(rows)), np.array(entry["outputs"][call][case])


@jax.jit
def _run(rule, received):
    update, state, _ = rule(jax.random.key(0), rule.init(*received.updates.shape), received)
    return update, state


def update_of(rule, rows, weights=None) -> np.ndarray:
    """A rule's update f32[d] of a first round."""
    return np.asarray(_run(rule, round_of(rows, weights))[0])


@jax.jit
def _mix(pre, received):
    return pre(jax.random.key(0), pre.init(*received.updates.shape), received)[0].updates


def rows_after(pre, rows) -> np.ndarray:
    """What a pre-aggregator makes of the rows, f32[n, d]."""
    return np.asarray(_mix(pre, round_of(rows)))


def sent_row(name: str, honest, **fields) -> np.ndarray:
    """The row f32[d] that an attack's first client sends against these honest rows.

    Two rows of colluders, which the attack must not read, stand before the honest ones.
    """
    colluders = np.full((2, honest.shape[1]), 7.0)
    return crafted_rows(UNTARGETED[name](**fields), np.concatenate([colluders, honest]))[0]


def assert_equal(ours, theirs, case: str = "") -> None:
    """Equal but for float32's rounding, relative to the largest entry."""
    theirs = np.asarray(theirs)
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6 * scale, err_msg=case)


def assert_agree(peer: str, call: str, ours) -> None:
    """``ours(rows, f)`` equals the peer's answer in every case."""
    for case, rows, f, theirs in answered(peer, call):
        assert_equal(ours(rows, f), theirs, case)


def differ(ours, statement) -> int:
    """In how many of 40 other inputs ``ours(rows, f)`` is not ``statement(rows, f)``."""
    count = 0
    for seed in range(1000, 1010, 2):
        for rows in cases(seed).values():
            f = byzantine(len(rows))
            count += not np.allclose(ours(rows, f), statement(rows, f), rtol=1e-3, atol=1e-3)
    return count
