"""FLAME (Nguyen et al., USENIX Security 2022)."""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.geometry import mixture, products
from metasg_jax.aggregators.norms import clip_factors, median_norm
from metasg_jax.aggregators.presence import count_rejected, present_norms, present_rows

# Of a cosine in float32; closer distances count as equal.
RESOLUTION = 2.0**-20


class FLAME(AggregatorBase):
    """Keeps the majority that points one way, clips it to the median norm, averages, adds noise.

    Rows are clustered by cosine distance with HDBSCAN, min_cluster_size = floor(n / 2) + 1,
    min_samples = 1 and allow_single_cluster (see :func:`majority_cluster`). S is the median of all
    norms; the kept rows are clipped to S and averaged unweighted, and N(0, (noise S)^2) is added to
    each coordinate.

    So configured, HDBSCAN keeps the first majority to come together: often hardly more than half of
    the rows, attack or not.

    Cosines are those of updates. The paper's text compares local models, most of whose cosine is
    that of the global model with itself.

    Attributes:
        noise: at least 0: deviation of the noise as a multiple of S (lambda in the paper); 0.001
            is its value for images. The noise's norm is about noise S sqrt(d).

    Example:
        >>> import jax
        >>> from metasg_jax.testing import received
        >>> rows = [[1.0, 0.0], [2.0, 0.1], [3.0, 0.2], [-9.0, 9.0]]
        >>> update, _, info = FLAME(noise=0.0)(jax.random.key(0), (), received(rows))
        >>> info["selected"].tolist()
        [True, True, True, False]
    """

    noise: float = 0.001

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {selected: bool[n], rejected: i32[]}); zero where no row is present."""
        updates, present = present_rows(received)
        norms = present_norms(received, present)
        selected = majority_cluster(cosine_distances(updates, norms), present)
        bound = median_norm(norms, present)
        weights = selected * clip_factors(norms, bound) / jnp.maximum(selected.sum(), 1)
        noise = self.noise * bound * jax.random.normal(key, updates.shape[1:])
        update = mixture(weights, received.updates, present) + noise
        info = {"selected": selected, "rejected": count_rejected(received, present)}
        return jnp.where(present.any(), update, 0.0), state, info


def cosine_distances(updates: jax.Array, norms: jax.Array) -> jax.Array:
    """1 - cos f32[n, n] of finite rows, in steps of :data:`RESOLUTION`, 0 on the diagonal.

    1 from a zero row to all others.
    """
    lengths = jnp.maximum(norms, 1e-12)
    distances = 1 - products(updates) / lengths[:, None] / lengths[None, :]
    # what rounding made of equal cosines must be equal again, and symmetric
    distances = jnp.round(jnp.maximum(distances, 0.0) / RESOLUTION) * RESOLUTION
    distances = jnp.maximum(distances, distances.T)
    return jnp.where(jnp.eye(len(norms), dtype=bool), 0.0, distances)


def majority_cluster(distances: jax.Array, present: jax.Array) -> jax.Array:
    """The rows bool[n] that HDBSCAN clusters if a cluster must hold more than half of them.

    Two such clusters can't be apart, so its tree never splits: rows only fall off the one cluster
    as the distance shrinks, and the last to stay are its members. They are the first component of
    the single-linkage tree with floor(count / 2) + 1 rows, and what joins at the same distance.
    With min_samples = 1 a core distance is the distance to the nearest other row, which changes no
    component. Takes n^3 log n steps: for some hundred clients, not thousands.

    Args:
        distances: f32[n, n], symmetric.
        present: bool[n].
    """
    n = present.shape[0]
    both = present[:, None] & present[None, :]
    # the smallest largest step on any path between two rows, by repeated squaring
    steps = jnp.where(both, distances, jnp.inf)

    def square(_, steps):
        through = jnp.maximum(steps[:, :, None], steps[None, :, :])
        return jnp.minimum(steps, through.min(axis=1))

    steps = jax.lax.fori_loop(0, max(1, (n - 1).bit_length()), square, steps)
    # in order of distance, 0 is the row itself
    reach = jnp.sort(steps, axis=1)[:, present.sum() // 2]
    reach = jnp.where(present, reach, jnp.inf)
    first = jnp.argmin(reach)
    return both[first] & (steps[first] <= reach[first])
