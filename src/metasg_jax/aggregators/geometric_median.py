"""Geometric median: RFA (Pillutla, Kakade, Harchaoui; IEEE Transactions on Signal Processing 2022).

Their smoothed Weiszfeld algorithm, run to convergence.
"""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.geometry import (
    MAX_RATIO,
    centred_gram,
    medoid,
    mixture,
    squared_distances,
)
from metasg_jax.aggregators.norms import clip_factors, median_norm
from metasg_jax.aggregators.presence import (
    count_rejected,
    presence,
    present_norms,
    present_products,
)
from metasg_jax.numerics import MAX_UNROLLED, matmul, row_squares, safe_sqrt, shares
from metasg_jax.struct import field


class GeometricMedian(AggregatorBase):
    """The point z with the smallest sum of distances to the updates.

    z = sum_i lambda_i u_i, and lambda_i is proportional to 1 / max(nu, |u_i - z|), repeated until
    no lambda_i changes by more than ``tolerance`` of itself. Rows are not weighted by
    ``received.weights``, which clients choose.

    Few rows have few scalar products, and those give every |u_i - z|: an iteration costs n^2 and
    not n d. From :data:`~metasg_jax.numerics.MAX_UNROLLED` rows on, their products would cost more
    than the iterations do, which then read the rows twice each.

    nu = ``smoothing`` times the radius of a ball that holds more than half of the updates: the
    smallest around an update for few rows, that around z for many. It matters only where z comes
    that near to an update; elsewhere z is exact.

    Attributes:
        smoothing: positive, below 1. 1e-6 or more, in the float32 of the rows.
        tolerance: positive; 1e-6 is what float32 allows.
        iterations: static, at least 1; more are never made. 3 to 30 are usual.

    Example:
        >>> from metasg_jax.testing import received
        >>> rows = [[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]]
        >>> GeometricMedian()(None, (), received(rows))[0].round(4).tolist()
        [1.0, 1.0]
    """

    smoothing: float = 1e-3
    tolerance: float = 1e-6
    iterations: int = field(static=True, default=200)

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {iterations: i32[], rejected: i32[]}); zero where no row is present."""
        few = received.updates.shape[0] <= MAX_UNROLLED
        converge = self._by_products if few else self._by_reading
        weights, present, count = converge(received)
        # such a loop has no reverse derivative: the rule's is taken with the weights as they are
        weights = jax.lax.stop_gradient(weights)
        info = {"iterations": count, "rejected": count_rejected(received, present)}
        return mixture(weights, received.updates, present), state, info

    def _by_products(self, received):
        """(lambda f32[n], present bool[n], iterations i32[])."""
        gram, present = centred_gram(received)
        distances = squared_distances(gram, present)
        middle, radius = medoid(distances, present)
        # seen from the middle row, products are as small as the distances
        gram = gram - gram[middle][None] - gram[:, middle][:, None] + gram[middle, middle]
        # a product that is not finite belongs to a row infinitely far away: its weight is 0
        usable = present & jnp.isfinite(jnp.diagonal(gram))
        gram = jnp.where(usable[:, None] & usable[None, :], gram, 0.0)
        # a positive number, for the case that most rows are equal
        floor = jnp.maximum(self.smoothing * jnp.sqrt(radius), 1e-18)

        def reweigh(weights):
            # from the nearest row k on, for where z is close to it its own distance must be exact:
            # z - u_k is the sum of the rows with weights that are small then
            nearest = jnp.argmax(weights)
            offsets = weights - (jnp.arange(weights.shape[0]) == nearest)
            products = matmul(gram, offsets)
            along = products - products[nearest]
            squares = distances[nearest] - 2 * along + matmul(offsets, products)
            new = shares(jnp.where(usable, _inverses(squares, floor), 0.0))
            return new, self._moved(new, weights, self.tolerance)

        # from the mean of the ball: the mean of all may be so far off that only the way back counts
        start = shares(jnp.where(usable & (distances[middle] <= radius), 1.0, 0.0))
        weights, count = self._repeat(reweigh, start)
        return weights, present, count

    def _by_reading(self, received):
        """The same by passes over the rows, with the distances that they have from z."""
        present = presence(received)
        rows, norms = jnp.asarray(received.updates), present_norms(received, present)
        squares, half = jnp.square(norms), present.sum() // 2
        # from the mean of the rows, none of them longer than most: near most of them
        clipped = clip_factors(norms, median_norm(norms, present))

        def distances(z):
            size = matmul(z, z)
            apart = squares - 2 * present_products(rows, present, z) + size
            # far from 0 a distance is a small difference of large squares, which loses digits
            kept = squares + size <= MAX_RATIO * apart
            return jax.lax.cond(
                jnp.all(kept | ~present), lambda: apart, lambda: row_squares(rows - z[None])
            )

        def reweigh(weights):
            z = mixture(weights, rows, present)
            apart = jnp.where(present, distances(z), jnp.inf)
            # in order of distance, more than half of them
            radius = jnp.maximum(jnp.sqrt(jnp.sort(apart)[half]), 1e-18)
            # z is rounded, and by that much its distances
            rounding = 2 * jnp.finfo(z.dtype).eps * safe_sqrt(matmul(z, z)) / radius
            new = shares(_inverses(apart, self.smoothing * radius))
            return new, self._moved(new, weights, self.tolerance + rounding)

        weights, count = self._repeat(reweigh, shares(jnp.where(present, clipped, 0.0)))
        return weights, present, count

    def _moved(self, new, old, tolerance):
        return jnp.any(jnp.abs(new - old) > tolerance * new)

    def _repeat(self, reweigh, weights):
        """(lambda f32[n], iterations i32[]) once ``reweigh`` says that nothing moved."""

        def step(carry):
            count, weights, _ = carry
            return count + 1, *reweigh(weights)

        def unfinished(carry):
            return carry[2] & (carry[0] < self.iterations)

        count, weights, _ = jax.lax.while_loop(unfinished, step, (jnp.int32(0), weights, True))
        return weights, count


def _inverses(squares: jax.Array, floor: jax.Array) -> jax.Array:
    """1 / max(floor, distance) f32[n] of squared distances; 0 of an infinite one."""
    return 1.0 / jnp.maximum(jnp.sqrt(jnp.maximum(squares, 0.0)), floor)
