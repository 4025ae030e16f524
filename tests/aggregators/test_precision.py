"""Products of rules and attacks are of whole float32, where a device has less to offer."""

import jax
import numpy as np
import pytest

from metasg_jax.fl import receive
from tests.every_variant import results_of_attacks, results_of_rules
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


# made for another number of clients
OTHERS = ("mda", "deepsight", "client_trust")


def test_rules_multiply_in_float32(accelerator):
    rows = np.random.default_rng(0).normal(size=(N, 30)).astype(np.float32)
    got = receive({"w": 0 * rows[0]}, [{"w": -row} for row in rows])
    got = got.replace(root_update=rows[0])
    found = products(lambda got: results_of_rules(got, OTHERS), got)
    assert len(found) > 10
    assert [line for line in found if "HIGHEST" not in line] == []


def test_attacks_multiply_in_float32(accelerator):
    found = products(results_of_attacks, context())
    assert [line for line in found if "HIGHEST" not in line] == []
