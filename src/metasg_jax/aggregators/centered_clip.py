"""Centered clipping (Karimireddy, He, Jaggi; ICML 2021)."""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.norms import clip_factors
from metasg_jax.aggregators.presence import count_rejected, presence
from metasg_jax.numerics import row_norms, weighted_sum
from metasg_jax.struct import field


class CenteredClip(AggregatorBase):
    """Clips every update's distance to a centre, which is the last round's result.

    v <- v + 1/n sum_i (u_i - v) min(1, max_norm / |u_i - v|), ``iterations`` times. The state is v
    f32[d], 0 before the first round. Rows are not weighted. A round without present rows gives a
    zero update and leaves v.

    Attributes:
        max_norm: positive, in the units of an update (tau in the paper): about the distance of an
            honest update to the honest mean. Tune it.
        iterations: static, at least 1; 1 in the paper, because v is a good start.

    Example:
        >>> from metasg_jax.testing import received
        >>> rule = CenteredClip(max_norm=1.0)
        >>> rule(None, rule.init(2, 1), received([[0.5], [90.0]]))[0].tolist()
        [0.75]
    """

    max_norm: float = 1.0
    iterations: int = field(static=True, default=1)

    def init(self, n: int, d: int) -> jax.Array:
        """The first centre: 0."""
        return jnp.zeros((d,), jnp.float32)

    def __call__(self, key, state, received, action=None):
        """(f32[d], the next centre, info).

        info: {clipped: share of present rows in the last iteration, rejected: i32[]}.
        """
        present = presence(received)
        count, dtype = jnp.maximum(present.sum(), 1), received.updates.dtype

        def step(_, carry):
            centre, _ = carry
            offsets = jnp.where(present[:, None], received.updates - centre[None], 0.0)
            # 0 where the square of a huge distance overflows: such a row pulls nowhere
            factors = clip_factors(row_norms(offsets), self.max_norm)
            clipped = jnp.sum(present & (factors < 1), dtype=offsets.dtype) / count
            return centre + weighted_sum(present * factors / count, offsets), clipped

        centre, clipped = jax.lax.fori_loop(
            0, self.iterations, step, (state.astype(dtype), jnp.zeros((), dtype))
        )
        update = jnp.where(present.any(), centre, 0.0)
        rejected = count_rejected(received, present)
        return update, centre, {"clipped": clipped, "rejected": rejected}
