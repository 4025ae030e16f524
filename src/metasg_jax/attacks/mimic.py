"""Mimic (Karimireddy, He, Jaggi; ICLR 2022)."""

import jax
import jax.numpy as jnp

from metasg_jax.attacks.base import AttackBase, seen
from metasg_jax.attacks.statistics import reference_rows
from metasg_jax.numerics import matmul, weighted_sum
from metasg_jax.struct import Struct


class MimicState(Struct):
    """What the colluders have learned of how honest clients differ.

    Attributes:
        mean: f32[d], running mean of the honest updates.
        direction: f32[d], of unit length, along which they vary most; 0 before the first round.
        rounds: f32[], how many are in the two.
    """

    mean: jax.Array
    direction: jax.Array
    rounds: jax.Array


class Mimic(AttackBase):
    """All colluders send the honest update that lies farthest out along the main direction.

    Nothing that they send is out of the ordinary; with heterogeneous clients they overstate one of
    them. The direction is learned online, by Oja's rule over rounds as in the paper's appendix:
    after t rounds mean <- (t mean + mean_i u_i) / (t + 1), and with x_i = u_i - mean,
    z <- normalised (t z + normalised sum_i x_i (x_i . z)) / (t + 1).

    The paper then follows one client for good. Where clients are sampled anew each round there is
    none to follow: sent is the row of largest x_i . z, on the same side round after round.
    """

    knowledge = "all"

    def init(self, n, d):
        """Nothing known."""
        return MimicState(
            jnp.zeros((d,), jnp.float32), jnp.zeros((d,), jnp.float32), jnp.zeros((), jnp.float32)
        )

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d], every row the same honest one. ``key`` is consumed."""
        rows, chosen = reference_rows(ctx)
        t, share = state.rounds, chosen / jnp.maximum(chosen.sum(), 1)
        mean = (t * state.mean + weighted_sum(share, rows)) / (t + 1)
        centred = jnp.where(chosen[:, None], rows - mean[None], 0.0)
        drawn = _normalised(jax.random.normal(key, mean.shape, jnp.float32))
        before = jnp.where(t > 0, state.direction, drawn)
        turned = _normalised(weighted_sum(matmul(centred, before), centred))
        direction = _normalised((t * before + turned) / (t + 1))
        farthest = jnp.argmax(jnp.where(chosen, matmul(centred, direction), -jnp.inf))
        new = MimicState(mean, direction, t + 1)
        # a round in which it sees nobody teaches nothing
        state = jax.tree.map(lambda a, b: jnp.where(chosen.any(), a, b), new, state)
        return jnp.broadcast_to(rows[farthest][None], seen(ctx).shape), state, {}


def _normalised(vector: jax.Array) -> jax.Array:
    return vector / jnp.maximum(jnp.sqrt(jnp.sum(vector**2)), 1e-12)
