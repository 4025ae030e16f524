"""More pre-aggregators in float64 NumPy, as in ``tests/oracles.py``."""

import numpy as np

from tests import oracles
from tests.oracles import clip_rows


def bucketing(rows, s, order):
    """Karimireddy et al. 2022, algorithm 1: means of s consecutive rows of a random order."""
    shuffled = rows[order]
    return np.stack([shuffled[i : i + s].mean(axis=0) for i in range(0, len(rows), s)])


def clipping(rows, max_norm):
    """Each row times min(1, max_norm / its norm)."""
    return clip_rows(rows, max_norm)


PRE = oracles.PRE | {
    "bucketing": bucketing,
    "clipping": clipping,
}
