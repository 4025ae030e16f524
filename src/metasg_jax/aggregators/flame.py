"""FLAME (Nguyen et al., USENIX Security 2022)."""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.clustering import cosine_distances, majority_cluster
from metasg_jax.aggregators.geometry import mixture
from metasg_jax.aggregators.norms import clip_factors, median_norm
from metasg_jax.aggregators.presence import count_rejected, present_norms, present_rows


class FLAME(AggregatorBase):
    """Keeps the majority that points one way, clips it to the median norm, averages, adds noise.

    Rows are clustered by cosine distance with HDBSCAN, min_cluster_size = floor(n / 2) + 1,
    min_samples = 1 and allow_single_cluster (``clustering.majority_cluster``). S is the median of
    all norms; the kept rows are clipped to S and averaged unweighted, and N(0, (noise S)^2) is
    added to each coordinate.

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
        noise = self.noise * bound * jax.random.normal(key, updates.shape[1:], jnp.float32)
        update = mixture(weights, received.updates, present) + noise
        info = {"selected": selected, "rejected": count_rejected(received, present)}
        return jnp.where(present.any(), update, 0.0), state, info
