"""Rules and inputs of the property tests: one shape, so that each rule compiles once."""

import jax
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metasg_jax.aggregators import AGGREGATORS
from metasg_jax.game.make import make_rule
from tests.rounds import round_of

# Bulyan needs n >= 4 f + 3
N, D, F = 11, 5, 2
COMPOSED = ["nnm+krum", "nnm+median", "clipping+krum", "nnm+clipped_trimmed_mean"]
# what it does depends on a draw, and that on a row's place
SHUFFLING = ["bucketing+median"]
# a rule that needs a model has one of its own to be tested with
ALONE = [name for name, rule in AGGREGATORS.items() if "model" not in rule.__dataclass_fields__]

# the same examples in every run
few = settings(max_examples=20, deadline=None, derandomize=True, database=None)


def quiet(rule):
    """The rule without its noise."""
    noise = [name for name in ("sigma", "noise") if hasattr(rule, name)]
    return rule.replace(**dict.fromkeys(noise, 0.0))


RULES = {name: quiet(make_rule(name, N, F / N)) for name in [*ALONE, *COMPOSED, *SHUFFLING]}

# Small whole numbers with ties, and what makes them differ. Where a rule chooses among rows, the
# first of equals wins, and the order of the rows would count.
JITTER = 0.5 * np.random.default_rng(0).normal(size=(N, D))


def _arrays(shape, most=4):
    return arrays(np.float32, shape, elements=st.integers(-most, most).map(float))


drawn_rows = _arrays((N, D)).map(lambda whole: np.float32(whole + JITTER))
directions = _arrays((D,)).map(lambda whole: np.float32(whole + 0.5))
shifts = _arrays((D,), most=20)
orders = st.permutations(range(N)).map(np.array)
factors = st.floats(0.02, 50.0)


@jax.jit
def _run(rule, received):
    return rule(jax.random.key(0), rule.init(N, D), received)[0]


def update_of(rule, rows, root, weights=None) -> np.ndarray:
    """f32[D], of a first round from the model 0."""
    return np.asarray(_run(rule, round_of(rows, weights, root)))


def assert_close(ours, expected) -> None:
    """Equal but for float32's rounding, relative to the largest entry."""
    scale = np.abs(expected).max() + 1e-6
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4 * scale)


def diameter(rows) -> float:
    """The largest distance between two rows."""
    return np.linalg.norm(rows[:, None] - rows[None], axis=2).max()
