"""Order statistics over clients: sorting networks, because a sort over rows is slow on a CPU.

``jnp.sort(u, 0)`` of [10, 1e5] takes some 50 ms on two CPU cores; the same by compare-exchange of
whole rows takes 0.3 ms, and fuses with the weighted sum that follows.
"""

import jax
import jax.numpy as jnp

from metasg_jax.rows import MAX_UNROLLED, weighted_sum


def comparators(n: int) -> list[tuple[int, int]]:
    """Batcher's odd-even merge sorting network for ``n`` wires, as pairs (low, high).

    Knuth, The Art of Computer Programming 3, section 5.2.2, algorithm M: any n, not only powers
    of two.

    Example:
        >>> comparators(4)
        [(0, 2), (1, 3), (0, 1), (2, 3), (1, 2)]
    """
    pairs, top = [], 1 << max(0, (n - 1).bit_length() - 1)
    p = top
    while p > 0:
        q, r, gap = top, 0, p
        while True:
            pairs += [(i, i + gap) for i in range(n - gap) if i & p == r]
            if q == p:
                break
            gap, q, r = q - p, q >> 1, p
        p >>= 1
    return pairs


def order_statistics(updates: jax.Array, present: jax.Array, rank_weights: jax.Array) -> jax.Array:
    """Weighted sum of each coordinate's order statistics over the present rows.

    Args:
        updates: f32[n, d], finite.
        present: bool[n]; absent rows rank behind all present ones.
        rank_weights: f32[n], weight of the i-th smallest; must be 0 from the number of present rows
            on.

    Returns:
        f32[d].
    """
    n = updates.shape[0]
    # a finite stand-in: 0 * inf would be NaN
    last = jnp.finfo(updates.dtype).max
    filled = jnp.where(present[:, None], updates, last)
    if n > MAX_UNROLLED:  # compile time grows with the comparators, n log^2 n of them
        return rank_weights @ jnp.sort(filled, axis=0)
    rows = list(filled)
    for i, j in comparators(n):
        rows[i], rows[j] = jnp.minimum(rows[i], rows[j]), jnp.maximum(rows[i], rows[j])
    # rows are summed as they come out, not stacked: one fused pass over memory
    return weighted_sum(rank_weights, rows)


def median_ranks(present: jax.Array) -> jax.Array:
    """Rank weights f32[n] of the median: the mean of the two middle values for an even count."""
    n, count = present.shape[0], present.sum()
    ranks = jnp.arange(n)
    low, high = (count - 1) // 2, count // 2
    return 0.5 * (ranks == low) + 0.5 * (ranks == high) * (count > 0)


def trimmed_ranks(present: jax.Array, cut: jax.Array) -> jax.Array:
    """Rank weights f32[n] of a mean without the ``cut`` smallest and largest (fractions allowed).

    A fractional cut takes its fraction off the end rows' weight, so the result is continuous in
    it. ``cut`` must stay below half of the present rows; nothing is left at half.
    """
    n, count = present.shape[0], present.sum()
    ranks = jnp.arange(n)
    kept_low = jnp.clip(ranks + 1 - cut, 0.0, 1.0)
    kept_high = jnp.clip(count - ranks - cut, 0.0, 1.0)
    kept = jnp.where(ranks < count, jnp.minimum(kept_low, kept_high), 0.0)
    return kept / jnp.maximum(kept.sum(), 1e-12)
