"""Nearest-neighbour mixing (Allouah et al., AISTATS 2023)."""

import jax.numpy as jnp

from metasg_jax.aggregators.geometry import (
    centred_gram,
    mixture,
    nearest,
    squared_distances,
)
from metasg_jax.aggregators.presence import count_rejected, remaining_byzantine
from metasg_jax.pre_aggregators.base import PreAggregatorBase


class NNM(PreAggregatorBase):
    """Each row becomes the mean of the n - f rows nearest to it, itself included.

    Honest rows come closer to each other, which heterogeneous clients need: the rule behind it
    then has less honest spread to hide an attack in. The first index wins a tie. Weights stay, and
    are not used in the mixing.

    Attributes:
        f: assumed number of malicious clients among the n sampled, below n / 2.

    Example:
        >>> from metasg_jax.testing import received
        >>> mixed, _, _ = NNM(f=1)(None, (), received([[0.0], [1.0], [2.0], [90.0]]))
        >>> mixed.updates[:, 0].tolist()
        [1.0, 1.0, 1.0, 31.0]
    """

    f: float = 2.0

    def __call__(self, key, state, received, action=None):
        """(received, state, {rejected: i32[]}); absent rows become zero rows of weight 0."""
        gram, present = centred_gram(received)
        kept = present.sum() - remaining_byzantine(self.f, present)
        near = nearest(squared_distances(gram, present), jnp.maximum(kept, 1)) & present[None, :]
        shares = near.astype(gram.dtype) / jnp.maximum(near.sum(axis=1, keepdims=True), 1)
        shares = jnp.where(present[:, None], shares, 0.0)
        updates = mixture(shares, received.updates, present)
        weights = jnp.where(present, received.weights, 0.0)
        out = received.replace(updates=updates, weights=weights)
        return out, state, {"rejected": count_rejected(received, present)}
