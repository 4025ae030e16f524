"""Numbers of a rule that fit no round of this size are refused where the rule enters."""

import pytest

from metasg_jax.aggregators import SignMajority
from metasg_jax.errors import ConfigError
from metasg_jax.game.make import check_rule


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (SignMajority(scale=0.0), "SignMajority: scale = 0: above 0"),
    ],
)
def test_out_of_range(rule, message):
    with pytest.raises(ConfigError, match=message):
        check_rule(rule, 10)
