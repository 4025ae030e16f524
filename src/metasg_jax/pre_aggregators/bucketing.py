"""Bucketing (Karimireddy, He, Jaggi; ICLR 2022)."""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.geometry import mixture
from metasg_jax.aggregators.presence import count_rejected, presence
from metasg_jax.pre_aggregators.base import PreAggregatorBase
from metasg_jax.struct import field


class Bucketing(PreAggregatorBase):
    """Shuffles the rows and averages them by ``s``: fewer rows, and honest ones closer together.

    Of p present rows, ceil(p / s) buckets are present; the last may be smaller. A bucket's weight
    is the sum of its rows' weights, which are not used in the average; its id is that of its first
    row, -1 where it is absent.

    Each malicious row may spoil a bucket: f stays, while n falls to n / s. The rule behind must
    bear that: Krum with f = 2 behind buckets of 2 needs n / 2 > 2 f + 2, hence 14 clients.

    Attributes:
        s: static, from 1 to n; 2 in the paper. 1 only shuffles.

    Example:
        >>> import jax
        >>> from metasg_jax.testing import received
        >>> pre = Bucketing(s=2)
        >>> means, _, _ = pre(jax.random.key(0), (), received([[1.0], [2.0], [3.0], [4.0]]))
        >>> means.updates.shape, float(means.updates.mean())
        ((2, 1), 2.5)
    """

    s: int = field(static=True, default=2)

    def num_rows(self, n: int) -> int:
        """ceil(n / s)."""
        return -(-n // self.s)

    def __call__(self, key, state, received, action=None):
        """(received, state, {rejected: i32[]}); buckets without a row are zero rows of weight 0."""
        n = received.updates.shape[0]
        present = presence(received)
        draws = jnp.where(present, jax.random.uniform(key, (n,), jnp.float32), jnp.inf)
        # absent rows come last, so that the buckets of the others are full
        bucket = jnp.argsort(jnp.argsort(draws)) // self.s
        member = (bucket[None, :] == jnp.arange(self.num_rows(n))[:, None]) & present[None, :]
        size = member.sum(axis=1)
        shares = member.astype(received.updates.dtype) / jnp.maximum(size, 1)[:, None]
        first = received.client_ids[jnp.argmax(member, axis=1)]
        out = received.replace(
            updates=mixture(shares, received.updates, present),
            weights=jnp.where(member, received.weights[None, :], 0.0).sum(axis=1),
            client_ids=jnp.where(size > 0, first, -1),
        )
        return out, state, {"rejected": count_rejected(received, present)}
