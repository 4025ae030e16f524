"""Local model poisoning (Fang et al., USENIX Security 2020): against Krum."""

import jax
import jax.numpy as jnp

from metasg_jax.attacks.base import AttackBase, seen
from metasg_jax.attacks.statistics import centred_distances, honest_mean, reference_rows
from metasg_jax.numerics import matmul
from metasg_jax.struct import field


class LMPKrum(AttackBase):
    """All colluders send ``-lambda sign(mean)``, with the largest lambda tried that Krum selects.

    Section IV.B of the paper: lambda starts at the bound of its theorem 1 and is halved until Krum
    chooses the crafted row among the honest rows and c copies of it, or lambda falls to
    ``threshold``. With h honest rows of d entries, Gamma the h - 2 nearest to each,

        lambda_0 = sqrt(min_l sum_{k in Gamma_l} |u_l - u_k|^2 / ((n - 2 c - 1) d))
                   + max_l |u_l| / sqrt(d).

    The attacker runs Krum with f = c, the number of colluders sampled, all of whom send the row
    (in a mixed attack: all of its own). It needs no knowledge of the
    server's rule, and is aimed at one. In a round with a malicious majority, n - 2 c - 1 counts 1.

    Attributes:
        threshold: positive, where the halving ends; 1e-5 in the paper.
        knowledge: ``all``, or ``own``: what the colluders would have sent honestly stands for
            the honest rows (the paper's partial knowledge).
    """

    threshold: float = 1e-5
    knowledge: str = field(static=True, default="all", choices=("all", "own"))

    def craft(self, key, state, ctx, action):
        """Rows f32[n, d], every row the same."""
        rows, chosen = reference_rows(ctx)
        # in a mixed attack the other attack's clients collude, but send no copy
        assumed, copies = ctx.colluders.sum(), jnp.maximum(ctx.malicious.sum(), 1)
        mean = honest_mean(ctx)
        direction = jnp.sign(mean)
        among = centred_distances(rows, chosen, mean)
        squares, along = jnp.sum(rows**2, axis=1), matmul(rows, direction)
        length = jnp.sum(direction**2)

        def to_crafted(size):
            """Squared distances f32[n] of the honest rows to ``-size * direction``."""
            return jnp.maximum(squares + 2 * size * along + size**2 * length, 0.0)

        def rejected(size):
            return ~krum_selects(to_crafted(size), among, chosen, copies) & (size > self.threshold)

        first = _first_size(among, squares, chosen, assumed, rows.shape[1])
        size = jax.lax.while_loop(rejected, lambda size: size / 2, first)
        return jnp.broadcast_to(-size * direction[None], seen(ctx).shape), state, {}


def krum_selects(
    to_crafted: jax.Array, among: jax.Array, chosen: jax.Array, copies: jax.Array
) -> jax.Array:
    """Whether Krum prefers ``copies`` equal crafted rows to the honest ones.

    Its f is the number of all other rows, of which it takes none for a neighbour.

    Args:
        to_crafted: f32[n], squared distances of the honest rows to the crafted one.
        among: f32[n, n], squared distances between honest rows.
        chosen: bool[n], which rows are honest.
        copies: i32[], at least 1.
    """
    n = chosen.shape[0]
    # n - f - 2 with f rows beside the honest ones; at least one neighbour
    neighbours = jnp.maximum(chosen.sum() - 2, 1)
    slots = jnp.arange(n)
    both = chosen[:, None] & chosen[None, :] & ~jnp.eye(n, dtype=bool)
    to_honest = jnp.where(both, among, jnp.inf)
    to_copies = jnp.where(slots[None] < copies, to_crafted[:, None], jnp.inf)
    scores = _sum_of_smallest(jnp.concatenate([to_honest, to_copies], axis=1), neighbours)
    own = jnp.where(slots < copies - 1, 0.0, jnp.inf)
    crafted = jnp.concatenate([jnp.where(chosen, to_crafted, jnp.inf), own])
    # on a tie the first index wins, which may be an honest one
    return _sum_of_smallest(crafted[None], neighbours)[0] < jnp.where(chosen, scores, jnp.inf).min()


def _first_size(among, squares, chosen, assumed, d: int) -> jax.Array:
    honest = chosen.sum()
    both = chosen[:, None] & chosen[None, :] & ~jnp.eye(chosen.shape[0], dtype=bool)
    nearest = _sum_of_smallest(jnp.where(both, among, jnp.inf), jnp.maximum(honest - 2, 1))
    nearest = jnp.where(chosen, nearest, jnp.inf).min()
    nearest = jnp.where(jnp.isfinite(nearest), nearest, 0.0)
    spread = jnp.maximum(honest - assumed - 1, 1)  # n - 2 c - 1
    longest = jnp.sqrt(jnp.where(chosen, squares, 0.0).max())
    return jnp.sqrt(nearest / (spread * d)) + longest / jnp.sqrt(d)


def _sum_of_smallest(values: jax.Array, count: jax.Array) -> jax.Array:
    """Sum f32[n] of the ``count`` smallest finite entries of each row of f32[n, k]."""
    ordered = jnp.sort(values, axis=1)
    kept = (jnp.arange(values.shape[1])[None] < count) & jnp.isfinite(ordered)
    return jnp.where(kept, ordered, 0.0).sum(axis=1)
