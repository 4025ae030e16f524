"""A craft alone, on rows that a test gives: no model is trained."""

import functools

import jax
import numpy as np

from tests.worlds import context

ACTION = np.zeros(4, np.float32)


_base = functools.cache(context)  # making it calls JAX a dozen times


def context_of(rows, num_colluders: int):
    """The context of a round of these rows, whose first clients collude."""
    rows = np.asarray(rows, np.float32)
    n, d = rows.shape
    first = np.arange(n) < num_colluders
    return _base().replace(
        malicious=first,
        colluders=first,
        visible=rows,
        honest=rows,
        weights=np.ones(n, np.float32),
        w_global=np.zeros(d, np.float32),
        rule=None,
    )


@jax.jit
def _craft(attack, ctx):
    state = attack.init(*ctx.visible.shape)
    return attack.craft(jax.random.key(0), state, ctx, ACTION)[0]


def crafted_rows(attack, rows, num_colluders: int = 2) -> np.ndarray:
    """What the colluders send in a first round, f32[num_colluders, d]."""
    return np.asarray(_craft(attack, context_of(rows, num_colluders)))[:num_colluders]
