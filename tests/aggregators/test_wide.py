"""Rules where the caller has switched on jax_enable_x64: values, not errors."""

import os
import subprocess
import sys

PROGRAM = """
import jax, numpy as np
import jax.numpy as jnp
from metasg_jax.aggregators import AGGREGATORS, Median
from metasg_jax.game.make import make_rule
from metasg_jax.testing import received
assert jax.config.jax_enable_x64
rows = np.random.default_rng(0).normal(size=(140, 3))
for name in AGGREGATORS:
    if name != "deepsight":  # which asks for a model
        rule, got = make_rule(name, 7, 0.2), received(rows[:7], root_update=rows[:7].mean(0))
        update, _, _ = rule(jax.random.key(0), rule.init(7, 3), got)
        assert np.isfinite(update).all(), name
got = received(rows).replace(updates=jnp.asarray(rows))
assert got.updates.dtype == jnp.float64
np.testing.assert_allclose(Median()(None, (), got)[0], np.median(rows, 0), rtol=1e-14)
few = received(rows[:9]).replace(updates=jnp.asarray(rows[:9]))
np.testing.assert_allclose(Median()(None, (), few)[0], np.median(rows[:9], 0), rtol=1e-14)
"""


def test_every_rule_gives_values_under_x64():
    """meamed and bulyan failed, and the median of more than 128 rows of float64."""
    environment = os.environ | {"JAX_ENABLE_X64": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
