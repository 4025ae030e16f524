"""Numbers of a rule are checked where the rule enters."""

import pytest

from metasg_jax.aggregators import ClippedMedian, GeometricMedian, Krum, MultiKrum, TrimmedMean
from metasg_jax.errors import ConfigError
from metasg_jax.game.make import check_rule, make_rule


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (TrimmedMean(beta=0.5), r"beta = 0.5: in \[0, 0.5\)"),
        (TrimmedMean(beta=-0.1), "beta = -0.1"),
        (Krum(f=5.0), r"f = 5: in \[0, n / 2\) with num_sampled = 10"),
        (ClippedMedian(max_norm=0.0), "max_norm = 0: above 0"),
        (MultiKrum(m=0.0), r"m = 0: in \[1, n\] with num_sampled = 10"),
        (MultiKrum(m=11.0), "m = 11"),
        (GeometricMedian(smoothing=1.0), r"smoothing = 1: in \(0, 1\)"),
        (GeometricMedian(tolerance=0.0), "tolerance = 0: above 0"),
        (GeometricMedian(iterations=0), "iterations = 0: at least 1"),
    ],
)
def test_out_of_range(rule, message):
    with pytest.raises(ConfigError, match=message):
        check_rule(rule, 10)


def test_f_is_the_rounded_share():
    assert make_rule("krum", 10, 0.2).f == 2
    assert make_rule("krum", 10, 0.26).f == 3
