"""Rules that see the rows only through their scalar products: one Gram matrix, then [n, n] work.

The product is the whole cost of such a rule, so nothing here copies the rows. They are read in
blocks of columns that stay in a CPU's cache: one product over a long row is up to five times
slower there, and a centred copy of the rows costs more than the product.
"""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.order import MAX_COUNTED, Window, by_counting
from metasg_jax.numerics import MAX_UNROLLED, matmul, weighted_sum
from metasg_jax.types import Received

BLOCK = 4096
# A distance is taken from squares at most this many times as large: 2 of float32's 7 digits.
MAX_RATIO = 100.0
# Rows have 7 digits and a pass tells apart what differs in the first 3: more can't be needed.
MAX_PASSES = 4


def centred_gram(received: Received) -> tuple[jax.Array, jax.Array]:
    """Scalar products of the rows, seen from a point near most of them.

    ``gram_ij = (u_i - c) . (u_j - c)``. Far from all rows (c = 0, when clients almost agree) a
    distance is a small difference of large squares, and float32 loses its digits. So c = 0 comes
    first, which is enough for most rounds and lets no row spoil another's products. If the middle
    row of that geometry (:func:`medoid`) is then much farther from c than from the rows around it,
    it becomes c, and the product is made again. No minority of far rows can be chosen as c, or
    cost the others their digits.

    A row is absent as in :func:`~metasg_jax.aggregators.presence.presence`: without positive
    weight, or with a squared norm that is not finite, which its own diagonal entry tells.

    Returns:
        (f32[n, n], bool[n]): products, 0 where a row is absent; which rows are present. Products
        of rows whose distance to c has no finite square are not finite.
    """
    updates, weights = jnp.asarray(received.updates), received.weights
    gram = products(updates)
    present = (weights > 0) & jnp.isfinite(weights) & jnp.isfinite(jnp.diagonal(gram))
    both = present[:, None] & present[None, :]

    def judged(gram):
        gram = jnp.where(both, gram, 0.0)
        middle, radius = medoid(squared_distances(gram, present), present)
        return gram, middle, gram[middle, middle] > MAX_RATIO * radius

    def again(carry):
        passes, _, middle, _ = carry
        return passes + 1, *judged(products(updates, updates[middle]))

    def lost(carry):
        return carry[3] & (carry[0] < MAX_PASSES)

    # a while, not a cond: under vmap a cond would always pay for both branches
    _, gram, _, _ = jax.lax.while_loop(lost, again, (1, *judged(gram)))
    return gram, present


def squared_distances(gram: jax.Array, present: jax.Array) -> jax.Array:
    """Squared distances f32[n, n]; +inf to and from absent rows, 0 on the diagonal."""
    squares = jnp.diagonal(gram)
    # in this order the squares of far rows don't overflow before they cancel
    distances = jnp.maximum((squares[:, None] - gram) + (squares[None, :] - gram), 0.0)
    # rows whose squares overflow are far from all others, and from each other: inf - inf is NaN
    distances = jnp.where(jnp.isnan(distances), jnp.inf, distances)
    distances = jnp.where(jnp.eye(gram.shape[0], dtype=bool), 0.0, distances)
    return jnp.where(present[:, None] & present[None, :], distances, jnp.inf)


def medoid(distances: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The row with the smallest ball around it that holds more than half of the present rows.

    Such a ball holds honest rows if most rows are honest, so the row is near them whatever the
    others are.

    Args:
        distances: squared, f32[n, n], +inf to absent rows.
        present: bool[n].

    Returns:
        (i32[] the first such row, f32[] its ball's squared radius); (0, +inf) without rows.
    """
    # in order of distance 0 is the row itself: count // 2 others and itself are a majority
    half = present.sum() // 2
    radii = jnp.where(present, sums_of_ranks(distances, half, half), jnp.inf)
    middle = jnp.argmin(radii)
    return middle, radii[middle]


def sums_of_ranks(distances: jax.Array, first: int | jax.Array, last: int | jax.Array) -> jax.Array:
    """Sum f32[n] of what has rank ``first`` to ``last`` in each row of f32[n, n].

    Ranks count from 0, a fraction counts as the whole below it. The result has no derivative where
    n is above ``MAX_UNROLLED``: who is near is a choice. There, XLA's sort of each row may take
    longer than the product of the rows.
    """
    n, one = distances.shape[0], jnp.ones((), distances.dtype)
    if n <= MAX_UNROLLED or n > MAX_COUNTED:
        ranks = jnp.arange(n)
        within = (ranks >= first) & (ranks <= last)
        return jnp.sum(jnp.where(within[None], jnp.sort(distances, axis=1), 0.0), axis=1)
    low, high = (jnp.floor(rank).astype(jnp.int32) for rank in (first, last))
    window = Window(low, high, one, one, jnp.where(low < high, one, 0.0))
    columns = jnp.minimum(jax.lax.stop_gradient(distances).T, jnp.finfo(distances.dtype).max)
    return by_counting(columns, jnp.ones((n,), bool), window)


def nearest(distances: jax.Array, count: jax.Array) -> jax.Array:
    """Which ``count`` columns are nearest to each row, bool[n, n]; the first of equals come first.

    Args:
        distances: f32[n, n]; +inf ranks last.
        count: from 1 to n; a fraction counts as the whole above it.
    """
    count = jnp.ceil(count)
    distances = jnp.minimum(distances, jnp.finfo(distances.dtype).max)  # inf has no rank in a count
    farthest = sums_of_ranks(distances, count - 1, count - 1)[:, None]
    nearer, equal = distances < farthest, distances == farthest
    room = count - nearer.sum(axis=1, keepdims=True)
    return nearer | (equal & (jnp.cumsum(equal, axis=1) <= room))


def mixture(weights: jax.Array, updates: jax.Array, present: jax.Array) -> jax.Array:
    """``weights @ updates``, f32[d] or f32[k, d], without what absent rows hold (maybe NaN).

    Args:
        weights: f32[n] or f32[k, n], 0 for absent rows.
        updates: f32[n, d], as received.
        present: bool[n].
    """
    # a weight's derivative is 0 times what the row holds
    weights = jnp.where(present, weights, 0.0) if weights.ndim == 1 else weights

    def clean():
        return jnp.where(present[:, None], updates, 0.0)

    if weights.ndim == 1 and updates.shape[0] <= MAX_UNROLLED:
        return weighted_sum(weights, clean())  # one fused pass
    # a product reads a copy of the cleaned rows: only where one has to be cleaned
    return jax.lax.cond(
        present.all(),
        lambda: matmul(weights, updates),
        lambda: matmul(weights, clean()),
    )


def products(rows: jax.Array, centre: jax.Array | None = None) -> jax.Array:
    """``(rows - centre) @ (rows - centre).T``, f32[n, n]."""

    def product(block, centre):
        block = block if centre is None else block - centre[None]
        return matmul(block, block.T)

    def blocked(rows, centre):
        n, d = rows.shape
        whole = d // BLOCK

        def add(i, gram):
            start = i * BLOCK
            block = jax.lax.dynamic_slice(rows, (0, start), (n, BLOCK))
            at = None if centre is None else jax.lax.dynamic_slice(centre, (start,), (BLOCK,))
            return gram + product(block, at)

        gram = jax.lax.fori_loop(0, whole, add, jnp.zeros((n, n), rows.dtype))
        if d % BLOCK == 0:
            return gram
        rest = whole * BLOCK
        return gram + product(rows[:, rest:], None if centre is None else centre[rest:])

    if rows.shape[1] <= BLOCK:
        return product(rows, centre)
    # accelerators split a long product themselves, and lose by a loop
    return jax.lax.platform_dependent(rows, centre, cpu=blocked, default=product)
