"""All registered rules, alone and behind a pre-aggregator, and how tests call them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators import AGGREGATORS, Composed
from metasg_jax.game.make import make_rule
from metasg_jax.pre_aggregators import PRE_AGGREGATORS
from tests.aggregators.head_model import rule_of
from tests.rounds import honest_round, with_rows

N, D = 10, 7
RISING = np.arange(1.0, N + 1)
# each pre-aggregator once, and a steered rule behind one
# five buckets are too few for Krum, if two are malicious
BEHIND = dict.fromkeys(PRE_AGGREGATORS, "krum") | {"bucketing": "median"}
COMPOSED = [*(f"{pre}+{rule}" for pre, rule in BEHIND.items()), "nnm+clipped_trimmed_mean"]
RULES = {name: functools.partial(rule_of, name, D) for name in AGGREGATORS}
RULES |= {name: functools.partial(make_rule, name, N, 0.2) for name in COMPOSED}
# what these do depends on a draw, and that on a row's place
SHUFFLING = {"bucketing+median"}
WEIGHTED = {name for name, rule in AGGREGATORS.items() if rule.weighted}
NOISY = {name for name in RULES if hasattr(RULES[name](), "sigma")}
STEERED = [name for name in RULES if RULES[name]().action_spec]

# what costs most to compile twice; other contracts, and oracles, are asked of these every time
DEAR = {
    "deepsight", "bulyan", "mda", "geometric_median", "meamed", "multi_krum", "flame", "foolsgold",
    "trusted_trimmed_mean", *(set(COMPOSED) - {"nnm+krum"}),
}  # fmt: skip

every_rule = pytest.mark.parametrize("name", RULES)
every_rule_dear_ones_slowly = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in DEAR)) for n in RULES]
)
every_orderless_rule = pytest.mark.parametrize("name", [n for n in RULES if n not in SHUFFLING])


def call(rule, got, action=None):
    return rule(jax.random.key(1), rule.init(*got.updates.shape), got, action)


@jax.jit
def jitted(rule, got, action=None):
    return call(rule, got, action)


def update_of(rule, got, action=None):
    return np.asarray(jitted(rule, got, action)[0])


def rejected_by(rule, got):
    count = jitted(rule, got)[2]["rejected"]
    assert count.shape == () and jnp.issubdtype(count.dtype, jnp.integer)
    return int(count)


def attacked(size):
    return with_rows(honest_round(), slice(2), size)


def without(rule, rejected):
    """The rule for the rows that are left: its Byzantine bound shrinks by the rejected ones."""
    if isinstance(rule, Composed):
        pre = tuple(without(part, rejected) for part in rule.pre)
        return Composed(pre, without(rule.rule, rejected))
    return rule.replace(f=max(rule.f - rejected, 0.0)) if hasattr(rule, "f") else rule


def whole_action(rule, knobs, n=10):
    """Knobs, behind trust in every other row where the rule decides about each."""
    trust = [(-1.0) ** i for i in range(n)] if rule.per_client else []
    return jnp.array([*trust, *knobs])
