"""Numbers of a rule that fit no round of this size are refused where the rule enters."""

import jax
import numpy as np
import pytest

from metasg_jax.aggregators import FLAME, MDA, Bulyan, FoolsGold, SignMajority, WeakDP
from metasg_jax.errors import ConfigError
from metasg_jax.game.make import check_rule, make_rule
from tests.rounds import round_of


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (SignMajority(scale=0.0), "SignMajority: scale = 0: above 0"),
        (FLAME(noise=-0.1), "FLAME: noise = -0.1: at least 0"),
        (WeakDP(sigma=-0.1), "WeakDP: sigma = -0.1: at least 0"),
        (FoolsGold(num_clients=9), "num_clients = 9: 0 or at least num_sampled = 10"),
        (Bulyan(f=2.0), r"Bulyan: f = 2: at most 1 with num_sampled = 10, .* 4 f \+ 3"),
    ],
)
def test_out_of_range(rule, message):
    with pytest.raises(ConfigError, match=message):
        check_rule(rule, 10)


@pytest.mark.parametrize(("n", "most"), [(3, 0), (6, 0), (7, 1), (10, 1), (11, 2), (23, 5)])
def test_bulyan_needs_four_f_and_three(n, most):
    assert check_rule(Bulyan(f=float(most)), n).f == most
    with pytest.raises(ConfigError, match=f"f = {most + 1}: (at most {most} with|in .0, n / 2)"):
        check_rule(Bulyan(f=most + 1.0), n)


def test_a_rule_by_name_is_refused_for_too_large_a_share():
    assert make_rule("bulyan", 10, 0.1).f == 1
    for name in ("bulyan", "nnm+bulyan"):
        with pytest.raises(ConfigError, match="f = 2: at most 1"):
            make_rule(name, 10, 0.2)


def test_bulyan_refuses_two_clients():
    with pytest.raises(ConfigError, match="f = 0: none, not even 0 with num_sampled = 2"):
        check_rule(Bulyan(f=0.0), 2)


def test_mda_counts_the_subsets_that_are_too_many():
    assert make_rule("mda", 20, 0.2).f == 4  # 4845 subsets
    with pytest.raises(ConfigError, match="MDA: f = 10: 30045015 subsets with num_sampled = 30"):
        check_rule(MDA(f=10.0), 30)
    with pytest.raises(ConfigError, match=r"f = 1\.5: a whole"):
        check_rule(MDA(f=1.5), 10)


def test_mda_refuses_them_at_trace_time_too():
    with pytest.raises(ConfigError, match="10272278170 subsets"):
        jax.eval_shape(MDA(f=10.0), None, (), round_of(np.zeros((50, 2))))
