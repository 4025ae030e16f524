"""Geometric median: RFA (Pillutla, Kakade, Harchaoui; IEEE Transactions on Signal Processing 2022).

Their smoothed Weiszfeld algorithm, run to convergence.
"""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.geometry import centred_gram, medoid, mixture, squared_distances
from metasg_jax.aggregators.presence import count_rejected
from metasg_jax.numerics import matmul
from metasg_jax.struct import field


class GeometricMedian(AggregatorBase):
    """The point z with the smallest sum of distances to the updates.

    z = sum_i lambda_i u_i, and lambda_i is proportional to 1 / max(nu, |u_i - z|), repeated until
    no lambda_i changes by more than ``tolerance`` of itself. All of it happens in the n weights,
    because the Gram matrix gives every |u_i - z|: an iteration costs n^2 and not n d. Rows are not
    weighted by ``received.weights``, which clients choose.

    nu = ``smoothing`` times the radius of the smallest ball around an update that holds more than
    half of them. It matters only where z comes that near to an update; elsewhere z is exact.

    Attributes:
        smoothing: positive, below 1. 1e-6 or more, in the float32 of the rows.
        tolerance: positive; 1e-6 is what float32 allows.
        iterations: static, at least 1; more are never made. 10 to 30 are usual.

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

        def normalised(weights):
            weights = jnp.where(usable, weights, 0.0)
            return weights / jnp.maximum(weights.sum(), 1e-30)

        def step(carry):
            count, weights, _ = carry
            # from the nearest row k on, for where z is close to it its own distance must be exact:
            # z - u_k is the sum of the rows with weights that are small then
            nearest = jnp.argmax(weights)
            offsets = weights - (jnp.arange(weights.shape[0]) == nearest)
            products = matmul(gram, offsets)
            along = products - products[nearest]
            squares = distances[nearest] - 2 * along + matmul(offsets, products)
            new = normalised(1.0 / jnp.maximum(jnp.sqrt(jnp.maximum(squares, 0.0)), floor))
            moved = jnp.any(jnp.abs(new - weights) > self.tolerance * new)
            return count + 1, new, moved

        def unfinished(carry):
            count, _, moved = carry
            return moved & (count < self.iterations)

        # from the mean of the ball: the mean of all may be so far off that only the way back counts
        start = normalised(1.0 * (distances[middle] <= radius))
        count, weights, _ = jax.lax.while_loop(unfinished, step, (jnp.int32(0), start, True))
        # such a loop has no reverse derivative: the rule's is taken with the weights as they are
        weights = jax.lax.stop_gradient(weights)
        info = {"iterations": count, "rejected": count_rejected(received, present)}
        return mixture(weights, received.updates, present), state, info
