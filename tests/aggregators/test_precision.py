"""Products of rules, attacks and features are of whole float32, where a device has less to offer."""

import jax
import numpy as np
import pytest

from metasg_jax.fl import receive
from tests.aggregators.test_contracts import RULES, call, whole_action
from tests.attacks.test_contracts import ACTION, CRAFTS, half
from tests.worlds import context

N = 40  # more rows than are unrolled, so that sums over them are products


@pytest.fixture
def accelerator(monkeypatch):
    """Traced as if a GPU were there: nothing that was traced for the CPU is taken."""
    jax.clear_caches()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    yield
    jax.clear_caches()


def products(function, *args) -> list[str]:
    """Each product of the lowered program, and where it has no precision."""
    text = jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    return [line for line in text.split("\n") if "dot_general" in line]


def updates(got):
    made = {}
    for name, make in RULES.items():
        if name in ("mda", "deepsight", "client_trust"):  # made for another number of clients
            continue
        rule = make()
        knobs = [0.0] * len(rule.action_spec)
        made[name] = call(rule, got, whole_action(rule, knobs) if knobs else None)[0]
    return made


def sent(ctx):
    attacks = {name: make() for name, make in CRAFTS.items()}
    return {
        name: [half(method, attack, ctx, np.float32(ACTION)) for method in ("plan", "craft")]
        for name, attack in attacks.items()
    }


def test_rules_multiply_in_float32(accelerator):
    rows = np.random.default_rng(0).normal(size=(N, 30)).astype(np.float32)
    got = receive({"w": 0 * rows[0]}, [{"w": -row} for row in rows])
    found = products(updates, got.replace(root_update=rows[0]))
    assert len(found) > 10
    assert [line for line in found if "HIGHEST" not in line] == []


def test_attacks_multiply_in_float32(accelerator):
    found = products(sent, context())
    assert [line for line in found if "HIGHEST" not in line] == []
