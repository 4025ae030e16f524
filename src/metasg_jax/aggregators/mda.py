"""Minimum-diameter averaging (El Mhamdi, Guerraoui, Guirguis, Hoang, Rouault; PODC 2020)."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.geometry import centred_gram, mixture, squared_distances
from metasg_jax.aggregators.presence import count_rejected
from metasg_jax.errors import ConfigError
from metasg_jax.numerics import matmul
from metasg_jax.struct import field

# All subsets are looked at: 15,504 of 20 rows take about 5 ms on two CPU cores.
MAX_SUBSETS = 20_000


class MDA(AggregatorBase):
    """Mean of the n - f updates whose largest distance between two is smallest.

    Exact, by looking at every subset of n - f rows: for few clients. Of subsets with the same
    diameter (common, as two rows make it) the one with the smallest sum of squared distances is
    taken, then the first. Rows are not weighted. With more than f rows rejected, the mean of
    all that are left.

    Attributes:
        f: static, whole: assumed number of malicious clients among the n sampled, below n / 2. n
            choose f is at most :data:`MAX_SUBSETS`.

    Example:
        >>> from metasg_jax.testing import received
        >>> MDA(f=1)(None, (), received([[0.0], [1.0], [2.0], [90.0]]))[0].tolist()
        [1.0]
    """

    f: float = field(static=True, default=2.0)

    def check_clients(self, n: int) -> None:
        """Refuses an ``f`` that makes too many subsets of n clients.

        Raises:
            ConfigError: where f is no whole number in [0, n), or n choose f is too many.
        """
        if self.f != int(self.f) or not 0 <= self.f < n:
            raise ConfigError(f"MDA: f = {self.f:g}: a whole number in [0, n) with n = {n}")
        count = math.comb(n, int(self.f))
        if count > MAX_SUBSETS:
            raise ConfigError(
                f"MDA: f = {self.f:g}: {count} subsets with num_sampled = {n}: "
                f"at most {MAX_SUBSETS}"
            )

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {selected: bool[n], rejected: i32[]}); zero where no row is present.

        Raises:
            ConfigError: as :meth:`check_clients`.
        """
        n = received.updates.shape[0]
        self.check_clients(n)
        gram, present = centred_gram(received)
        distances = squared_distances(gram, present)
        # n and f shrink by the rejected alike, so that the size of a subset stays n - f
        subset = smallest_diameter(distances, jnp.asarray(_subsets(n, n - int(self.f))))
        selected = jnp.where(n - present.sum() > self.f, present, subset & present)
        weights = selected / jnp.maximum(selected.sum(), 1)
        info = {"selected": selected, "rejected": count_rejected(received, present)}
        return mixture(weights, received.updates, present), state, info


def smallest_diameter(distances: jax.Array, subsets: jax.Array) -> jax.Array:
    """The row bool[n] of ``subsets`` bool[S, n] with the smallest diameter.

    Args:
        distances: squared, f32[n, n], +inf to absent rows.
        subsets: bool[S, n].
    """
    # a product needn't be symmetric to the last digit, and equal diameters must be equal
    distances = jnp.maximum(distances, distances.T)

    def widen(diameters, column):
        to, member = column
        farthest = jnp.max(jnp.where(subsets, to[None], 0.0), axis=1)
        return jnp.maximum(diameters, jnp.where(member, farthest, 0.0)), None

    diameters, _ = jax.lax.scan(
        widen, jnp.zeros(subsets.shape[0], distances.dtype), (distances, subsets.T)
    )
    best = diameters.min()
    # by a power of 2, which rounds nothing: sums of huge squares overflow
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(best), best, 1.0))
    within = (distances <= best) & jnp.isfinite(distances)
    scaled = jnp.where(within, jnp.ldexp(jnp.where(within, distances, 0.0), -exponent), 0.0)
    products = matmul(subsets * 1.0, scaled)
    totals = jnp.sum(products * subsets, axis=1)
    return subsets[jnp.argmin(jnp.where(diameters == best, totals, jnp.inf))]


@functools.cache
def _subsets(n: int, size: int) -> np.ndarray:
    """All subsets bool[S, n] of ``size`` rows, in lexicographic order."""
    index = np.array(list(itertools.combinations(range(n), size)))
    subsets = np.zeros((len(index), n), bool)
    subsets[np.arange(len(index))[:, None], index] = True
    return subsets
