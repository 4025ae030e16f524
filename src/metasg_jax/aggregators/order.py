"""Order statistics over clients, without a sort over rows, which is slow on a CPU.

``jnp.sort(u, 0)`` of [10, 1e5] takes some 50 ms on two CPU cores; compare-exchange of whole rows
takes 0.25 ms, and fuses with the weighted sum that follows. From about a hundred rows on, counting
takes over.
"""

import jax
import jax.numpy as jnp

from metasg_jax.numerics import MAX_UNROLLED, matmul
from metasg_jax.struct import Struct

# A network's compile time grows with its comparators, n log^2 n / 4 of them: 5 s at 100 rows.
MAX_NETWORK = 128
# Two counts of up to this many rows are packed into one float32.
MAX_COUNTED = 4095
_SECOND = float(MAX_COUNTED + 1)
# Coordinates counted at a time on a CPU.
_BLOCK = 128
# Stands in for an absent value, ranks behind all others, and is finite: 0 * inf would be NaN.
_LAST = float(jnp.finfo(jnp.float32).max)


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


class Window(Struct):
    """Which order statistics count, and how much: ``w_low x_(low) + w_mid (those between) + ...``.

    Ranks count from 0 among the present rows; ``low <= high``. Where they are equal, that one value
    counts ``w_low + w_high``.

    Attributes:
        low: i32[].
        high: i32[].
        w_low: f32[].
        w_mid: f32[], of each rank strictly between.
        w_high: f32[].
    """

    low: jax.Array
    high: jax.Array
    w_low: jax.Array
    w_mid: jax.Array
    w_high: jax.Array

    def rank_weights(self, n: int) -> jax.Array:
        """The same as one weight a rank, f32[n]."""
        ranks = jnp.arange(n)
        ends = self.w_low * (ranks == self.low) + self.w_high * (ranks == self.high)
        return ends + self.w_mid * ((ranks > self.low) & (ranks < self.high))


def median_window(present: jax.Array) -> Window:
    """The median of the present rows: the mean of the two middle values for an even count."""
    count = present.sum()
    half = jnp.where(count > 0, 0.5, 0.0)
    low, high = jnp.maximum(count - 1, 0) // 2, count // 2
    return Window(low, high, half, jnp.zeros((), jnp.float32), half)


def medians(values: jax.Array, present: jax.Array) -> jax.Array:
    """Median f32[k] of each column of f32[n, k] over the present rows; 0 where there is none.

    For a few columns beside the rows' d: XLA sorts column by column on a CPU, and a network of all
    columns at once takes a fourth of that. From
    :data:`~metasg_jax.numerics.MAX_UNROLLED` rows on it would take too long to compile.
    """
    n, window = values.shape[0], median_window(present)
    if n <= MAX_UNROLLED:
        return order_statistics(values, present, window)
    ordered = jnp.sort(jnp.where(present[:, None], values, jnp.inf), axis=0)
    low, high = jnp.clip(window.low, 0, n - 1), jnp.clip(window.high, 0, n - 1)
    return jnp.where(present.any(), 0.5 * (ordered[low] + ordered[high]), 0.0)


def trimmed_window(present: jax.Array, cut: jax.Array) -> Window:
    """A mean without the ``cut`` smallest and the ``cut`` largest; fractions are allowed.

    A fractional cut takes its fraction off the end rows' weight, so the result is continuous in
    it. ``cut`` must stay below half of the present rows; nothing is left at half.
    """
    count = present.sum()
    whole = jnp.floor(cut)
    low = whole.astype(count.dtype)
    high = count - 1 - low
    kept = jnp.where(low <= high, 1 - (cut - whole), 0.0)
    total = jnp.maximum(jnp.maximum(high - low - 1, 0) + kept * (1 + (low < high)), 1e-12)
    end = kept / total
    return Window(
        low=low,
        high=jnp.maximum(high, low),
        w_low=end,
        w_mid=1 / total,
        w_high=jnp.where(low < high, end, 0.0),
    )


def order_statistics(
    updates: jax.Array, present: jax.Array, window: Window, factors: jax.Array | None = None
) -> jax.Array:
    """Weighted sum of each coordinate's order statistics over the present rows.

    A sorting network up to :data:`MAX_NETWORK` rows, counting selection above (and a sort above
    :data:`MAX_COUNTED`).

    Args:
        updates: f32[n, d] as received: whatever absent rows hold is not read.
        present: bool[n]; absent rows rank behind all present ones.
        window: ranks below the number of present rows, and their weights.
        factors: f32[n], what to multiply each row by first; nothing by default.

    Returns:
        f32[d].
    """
    n, dtype = updates.shape[0], updates.dtype
    # under jax_enable_x64 these may be wider than the rows
    low, mid, high = (w.astype(dtype) for w in (window.w_low, window.w_mid, window.w_high))
    window = window.replace(w_low=low, w_mid=mid, w_high=high)
    if factors is not None:
        factors = factors.astype(dtype)
        # an absent row's factor has a derivative of 0 times what the row holds, a NaN maybe, and
        # hands it on to what the factors were made of
        factors = jnp.where(present, factors, 1.0)
    if factors is not None and MAX_NETWORK // 2 < n <= MAX_NETWORK:
        # so many factors beside so many rows no longer fit the loop: four times slower
        updates, factors = updates * factors[:, None], None
    if n <= MAX_NETWORK:
        return by_network(updates, present, window, factors)
    if n <= MAX_COUNTED:
        return by_counting(updates, present, window, factors)
    ordered = jnp.sort(_filled(updates, present, factors), axis=0)
    # in a weight's derivative the stand-ins would add up to an infinity
    ordered = jnp.where((jnp.arange(n) < present.sum())[:, None], ordered, 0.0)
    return matmul(window.rank_weights(n), ordered)


def _filled(rows: jax.Array, present: jax.Array, factors: jax.Array | None) -> jax.Array:
    scaled = rows if factors is None else rows * factors[:, None]
    # select, don't multiply: 0 * NaN is NaN
    return jnp.where(present[:, None], scaled, _LAST)


def by_network(
    updates: jax.Array, present: jax.Array, window: Window, factors: jax.Array | None = None
) -> jax.Array:
    """:func:`order_statistics` by compare-exchange of whole rows: one fused pass over memory."""
    n = updates.shape[0]
    factors = jnp.ones((n,), updates.dtype) if factors is None else factors
    rows = []
    for i in range(n):
        # slices [1, d] and not rows [d]: a reshape between them makes XLA cut the network into many
        # loops, each of which repeats most of it; filled one by one, or the whole is written out
        row = jax.lax.slice_in_dim(updates, i, i + 1)
        rows.append(jnp.where(present[i], row * factors[i], _LAST))
    for i, j in comparators(n):
        # not minimum and maximum: those look for NaNs, which takes twice as long on a CPU
        swap = rows[i] > rows[j]
        rows[i], rows[j] = jnp.where(swap, rows[j], rows[i]), jnp.where(swap, rows[i], rows[j])
    return _sum_of_ranks(window.rank_weights(n), present.sum(), rows)[0]


@jax.custom_jvp
def _sum_of_ranks(rank_weights: jax.Array, count: jax.Array, rows: list[jax.Array]) -> jax.Array:
    """``sum_i rank_weights_i rows_i`` of rows f32[1, d] in order, of which ``count`` are present.

    The others hold :data:`_LAST`, and their weight is 0. In a weight's derivative such values add
    up to an infinity, and 0 times that is NaN: so there they count as 0.
    """
    # rows are summed as they come out: stacked, each of them would repeat the network
    total = rank_weights[0] * rows[0]
    for i in range(1, len(rows)):
        total = total + rank_weights[i] * rows[i]
    return total


@_sum_of_ranks.defjvp
def _(primals, tangents):
    rank_weights, count, rows = primals
    turn, _, changes = tangents
    there = [jnp.where(i < count, row, 0.0) for i, row in enumerate(rows)]
    tangent = jnp.zeros_like(rows[0])
    for i, row in enumerate(there):
        tangent = tangent + turn[i] * row + rank_weights[i] * changes[i]
    return _sum_of_ranks(rank_weights, count, rows), tangent


def by_counting(
    updates: jax.Array, present: jax.Array, window: Window, factors: jax.Array | None = None
) -> jax.Array:
    """:func:`order_statistics` by counting selection: bisection on the bits of the float.

    A pass counts, for each coordinate, the values up to a pivot; some 25 passes find the window's
    two ends exactly, whatever n. On a CPU, blocks of coordinates stay in the cache between passes.
    """
    d = updates.shape[1]

    def whole(updates):
        return _count_block(_filled(updates, present, factors), window)

    def blocked(updates):
        width = min(_BLOCK, d)
        # the last block overlaps the one before it where the width doesn't divide d
        starts = jnp.minimum(jnp.arange(-(-d // width)) * width, d - width)

        def block(start):
            return whole(jax.lax.dynamic_slice_in_dim(updates, start, width, axis=1))

        parts = jax.lax.map(block, starts)
        last = parts[-1, parts.size - d :]
        return jnp.concatenate([parts[:-1].reshape(-1), last])

    return jax.lax.platform_dependent(updates, cpu=blocked, default=whole)


def _count_block(updates: jax.Array, window: Window) -> jax.Array:
    n, width = updates.shape
    ranks = jnp.stack([window.low, window.high])
    needed = (ranks + 1).astype(updates.dtype)[:, None]

    def count(pivots):
        """How many values are <= each of two pivots f32[2, width]: two counts in one product."""
        below = jnp.where(updates <= pivots[:1], 1.0, 0.0)
        below = below + jnp.where(updates <= pivots[1:], _SECOND, 0.0)
        ones = jnp.ones((1, n), updates.dtype)
        packed = matmul(ones, below)
        second = jnp.floor(packed / _SECOND)
        return jnp.concatenate([packed - second * _SECOND, second])

    def undecided(bracket):
        low, high, at_high = bracket
        return ((at_high > needed) & (low < high)).any()

    def halve(bracket):
        low, high, at_high = bracket
        middle = (low >> 1) + (high >> 1) + (low & high & 1)  # low + high may overflow
        counted = count(_from_bits(middle, updates.dtype))
        enough = counted >= needed
        return (
            jnp.where(enough, low, middle + 1),
            jnp.where(enough, middle, high),
            jnp.where(enough, counted, at_high),
        )

    edge = jnp.full((2, width), _LAST, updates.dtype)
    bracket = _to_bits(-edge), _to_bits(edge), jnp.full((2, width), n, updates.dtype)
    _, high, _ = jax.lax.while_loop(undecided, halve, bracket)
    # the largest value up to a bound that exactly rank + 1 values reach
    bound = _from_bits(high, updates.dtype)
    first = jnp.where(updates <= bound[:1], updates, -_LAST).max(axis=0)
    final = jnp.where(updates <= bound[1:], updates, -_LAST).max(axis=0)
    inside = (updates > first[None]) & (updates < final[None])
    # of the ranks strictly between, those not inside equal one of the ends
    between = jnp.maximum(window.high - window.low - 1, 0)
    at_first = jnp.minimum((updates <= first[None]).sum(axis=0) - 1 - window.low, between)
    at_final = between - at_first - inside.sum(axis=0)
    middle = jnp.where(inside, updates, 0.0).sum(axis=0) + at_first * first + at_final * final
    return window.w_low * first + window.w_mid * middle + window.w_high * final


def _to_bits(values: jax.Array) -> jax.Array:
    """Whole numbers, as wide as the floats and in their order."""
    whole = jnp.int32 if values.dtype.itemsize == 4 else jnp.int64
    bits = jax.lax.bitcast_convert_type(values, whole)
    return jnp.where(bits < 0, bits ^ jnp.iinfo(whole).max, bits)


def _from_bits(bits: jax.Array, dtype) -> jax.Array:
    """The inverse of :func:`_to_bits`."""
    bits = jnp.where(bits < 0, bits ^ jnp.iinfo(bits.dtype).max, bits)
    return jax.lax.bitcast_convert_type(bits, dtype)
