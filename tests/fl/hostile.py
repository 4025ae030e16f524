"""What a client may send in place of a leaf f32[3], or of a model: arrays of no real numbers."""

import jax
import jax.numpy as jnp
import numpy as np


class Rude:
    """A leaf that raises whatever is asked of it."""

    def __array__(self, *args, **kwargs):
        raise RuntimeError("no")

    def __str__(self):
        raise RuntimeError("no")


HOSTILE_LEAVES = {
    "complex": np.array([complex(1, np.nan)] * 3),
    "strings": np.array(["x", "y", "z"]),
    "bytes": np.array([b"x", b"y", b"z"]),
    "digits": np.array(["1", "2", "3"]),
    "objects": np.array([object()] * 3),
    "objects that are numbers": np.array([1.0, 2.0, 3.0], object),
    "dates": np.array(["2020-01-01"] * 3, "datetime64[D]"),
    "durations": np.array([1, 2, 3], "timedelta64[s]"),
    "structures": np.zeros(3, [("a", np.float32)]),
    "void": np.zeros(3, "V4"),
    "masked": np.ma.masked_array([1.0, 2.0, 3.0], [True, False, False]),
    "keys": jax.random.split(jax.random.key(0), 3),
    "huge whole numbers": np.array([2**53 + 1, 0, 0]),
    "huge unsigned numbers": np.array([2**64 - 1, 0, 0], np.uint64),
    "a huge number": 10**400,
    "another shape": np.ones(4),
    "a scalar": 1.0,
    "text": "abc",
    "rude": Rude(),
}


def _deep(depth):
    tree = np.ones(3)
    for _ in range(depth):
        tree = [tree]
    return tree


class _Static:
    """A pytree whose static part can't be compared."""


jax.tree_util.register_pytree_node(
    _Static, lambda node: ((np.ones(3),), np.ones(2)), lambda aux, leaves: _Static()
)

HOSTILE_TREES = {
    "nothing": None,
    "a leaf": np.ones(3),
    "a string": "model",
    "keys of two kinds": {1: np.ones(3), "bias": np.ones(3)},
    "deep": _deep(5000),
    "a class of its own": _Static(),
    "no leaves": {},
    "None for a leaf": {"kernel": None, "bias": jnp.ones(3)},
}
