"""Models from elsewhere become rows; what does not fit is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators import FLTrust, Mean
from metasg_jax.errors import ConfigError
from metasg_jax.fl import receive

GLOBAL = {"kernel": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float32)}


def moved(by):
    return jax.tree.map(lambda leaf: leaf + np.float32(by), GLOBAL)


def test_rows_are_global_minus_local_in_the_order_of_the_tree():
    local = {"kernel": GLOBAL["kernel"] + np.arange(6.0).reshape(2, 3), "bias": np.full(3, 7.0)}
    got = receive(GLOBAL, [moved(1), local], weights=[3, 1], client_ids=[5, 2], round=4)
    np.testing.assert_allclose(got.updates[0], -1)
    np.testing.assert_allclose(got.updates[1], [-7, -7, -7, 0, -1, -2, -3, -4, -5])
    np.testing.assert_allclose(got.weights, [3, 1])
    assert got.client_ids.tolist() == [5, 2] and int(got.round) == 4 and got.root_update is None
    assert got.updates.dtype == jnp.float32


def test_a_rule_reads_them_and_counts_what_is_not_finite():
    got = receive(GLOBAL, [moved(1), moved(3), moved(np.nan)])
    update, _, info = Mean()(jax.random.key(0), (), got)
    np.testing.assert_allclose(update, -2)
    assert int(info["rejected"]) == 1


def test_the_servers_own_model_is_the_root_update():
    got = receive(GLOBAL, [moved(2), moved(-2)], root_params=moved(1))
    np.testing.assert_allclose(FLTrust()(None, (), got)[0], -1, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"client_params": []}, r"client_params = \[\]: at least one"),
        ({"weights": [1.0, -2.0]}, r"weights\[1\] = -2: at least 0"),
        ({"weights": [1.0, np.nan]}, r"weights\[1\] = nan: at least 0 and finite"),
        ({"weights": [0.0, 0.0]}, "weights: all 0; at least one above 0"),
        ({"weights": [1.0]}, "weights: 1 of them, not one for each of 2"),
        ({"client_ids": [3, 3]}, r"client_ids = \[3, 3\]: 2 different"),
        ({"root_params": {"kernel": np.ones(2)}}, "root_params: leaves of shapes"),
        ({"client_params": [moved(1), {"bias": np.ones(3)}]}, r"client_params\[1\]: leaves"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        receive(GLOBAL, **{"client_params": [moved(1), moved(2)], **arguments})
