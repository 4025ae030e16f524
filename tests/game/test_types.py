"""Attacker types: their text form, their table, their errors."""

import jax
import jax.numpy as jnp
import pytest

from metasg_jax.attacks import ALIE, BFL, IPM, LMP, RL
from metasg_jax.errors import ConfigError, UnknownNameError
from metasg_jax.game.types import make_prior, parse_type

TRIGGER = (jnp.ones((4, 4, 1)), jnp.ones((4, 4, 1)))


def test_parse_reads_knobs_shares_and_mixes():
    spec = parse_type("ipm:scale=2@0.1+bfl:boost=3,fraction=0.25@0.05", 100)
    assert spec.untargeted == IPM(2.0) and spec.backdoor == BFL(0.25, 3.0)
    assert (spec.num_untargeted, spec.num_backdoor) == (10, 5)
    assert parse_type("rl:max_steps=3@0.2", 10).untargeted == RL(max_steps=3)
    assert parse_type("none", 10).num_untargeted == 0


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("ipmm@0.2", UnknownNameError, "did you mean 'ipm'"),
        ("ipm:size=2@0.2", ConfigError, "it has: noise, scale"),
        ("ipm:scale=big@0.2", ConfigError, "not a number"),
        ("ipm@1.2", ConfigError, "between 0 and 1"),
        ("ipm:scale=2", ConfigError, "has no share"),
        ("rl:max_steps=2.7@0.2", ConfigError, "a whole number"),
        ("ipm@0.7+bfl@0.7", ConfigError, "14 attackers but num_clients is 10"),
        ("ipm@0.1+alie@0.1", ConfigError, "two untargeted"),
    ],
)
def test_parse_errors_teach(text, error, message):
    with pytest.raises(error, match=message):
        parse_type(text, 10)


def test_attacks_with_equal_fields_stay_apart():
    # tree structures of dataclasses registered by jax itself would compare equal here
    specs = [parse_type(t, 10) for t in ("ipm@0.2", "alie@0.2", "lmp@0.2", "ipm:scale=5@0.2")]
    prior = make_prior(specs, TRIGGER, 0)
    assert [type(kind) for kind in prior.untargeted.kinds] == [IPM, ALIE, LMP]
    assert prior.types.untargeted.tolist() == [[0, 0], [1, 0], [2, 0], [0, 1]]


def test_prior_by_default_is_uniform_and_indexable_by_a_tracer():
    prior = make_prior([parse_type(t, 10) for t in ("none", "bfl@0.3")], TRIGGER, 2)
    assert prior.probabilities.tolist() == [0.5, 0.5]
    xi = jax.jit(lambda i: prior[i])(1)
    assert int(xi.num_backdoor) == 3 and float(xi.rho) == 1.0 and bool(xi.has_backdoor)
    assert float(prior[0].rho) == 0.0
    assert prior.adaptive == (False, False)


def test_mixed_type_splits_clients_without_overlap():
    prior = make_prior([parse_type("ipm@0.3+bfl@0.2", 10)], TRIGGER, 2)
    backdoor, untargeted = prior.colluders(prior[0])
    ids = jnp.arange(10)
    assert jnp.where(backdoor.members(ids, 0))[0].tolist() == [0, 1]
    assert jnp.where(untargeted.members(ids, 0))[0].tolist() == [2, 3, 4]


def test_an_attack_that_begins_late_has_no_clients_before():
    spec = parse_type("ipm:scale=2@0.3@7", 10)
    assert (spec.num_untargeted, spec.onset) == (3, 7)
    prior = make_prior([spec], TRIGGER, 2)
    _, untargeted = prior.colluders(prior[0])
    ids = jnp.arange(10)
    assert not untargeted.members(ids, 6).any() and untargeted.members(ids, 7).sum() == 3
    with pytest.raises(ConfigError, match="onset 'soon'"):
        parse_type("ipm@0.3@soon", 10)
