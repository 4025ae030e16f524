"""CRFL's training: a clipped and noisy global model (Xie, Chen, Chen, Li; ICML 2021)."""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.mean import Mean
from metasg_jax.aggregators.norms import clip_factors
from metasg_jax.aggregators.presence import presence
from metasg_jax.numerics import matmul, safe_sqrt


class CRFL(AggregatorBase):
    """Takes the weighted mean, then clips the new *model* to ``max_norm`` and adds N(0, sigma^2).

    w' = w / max(1, |w| / max_norm) + noise, with w = w_global - mean_i u_i. The update returned is
    w_global - w', so w' is the next model where the server's learning rate is 1. Several
    implementations clip the mean update instead: that is another rule. A round without present
    rows gives a zero update.

    The certificate of the paper is a vote over noisy copies of the final model; it is no part of
    this rule.

    Attributes:
        max_norm: positive, a norm of all parameters: above that of a good model, or nothing is
            learned. The default suits an MLP of 784-128-10, whose initial norm is about 12.
        sigma: at least 0, of each parameter; 0.01 in the paper, for models of few parameters.

    Example:
        >>> import jax
        >>> from metasg_jax.testing import received
        >>> rule = CRFL(max_norm=4.0, sigma=0.0)
        >>> rule(jax.random.key(0), (), received([[9.0], [1.0]]))[0].tolist()
        [4.0]
    """

    weighted = True

    max_norm: float = 15.0
    sigma: float = 0.001

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {model_norm: f32[], before clipping; rejected: i32[]})."""
        mean, _, info = Mean()(None, (), received)
        model = received.w_global - mean
        norm = safe_sqrt(matmul(model, model))
        noise = self.sigma * jax.random.normal(key, model.shape, jnp.float32)
        new = model * clip_factors(norm, self.max_norm) + noise
        update = jnp.where(presence(received).any(), received.w_global - new, 0.0)
        return update, state, info | {"model_norm": norm}
