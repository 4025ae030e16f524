"""FLTrust (Cao et al., NDSS 2021)."""

import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.presence import (
    count_rejected,
    present_norms,
    present_products,
    present_rows,
    usable_root,
)
from metasg_jax.numerics import matmul, ratio, safe_sqrt, weighted_sum


class FLTrust(AggregatorBase):
    """Weighs each update by its cosine to the server's own, cut at 0, after equalising the norms.

    update = sum_i ReLU(cos(u_i, u_0)) * |u_0| / |u_i| * u_i / sum_i ReLU(cos(u_i, u_0)), with u_0
    the update trained on root data. Nobody is trusted where u_0 is 0 or its square not finite.

    Example:
        >>> from metasg_jax.testing import received
        >>> rule_input = received([[3.0, 0.0], [-5.0, 0.0]], root_update=[1.0, 0.0])
        >>> FLTrust()(None, (), rule_input)[0].tolist()
        [1.0, 0.0]
    """

    needs_root = True

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {trust: f32[n], rejected: i32[]}); zero where nobody is trusted.

        Raises:
            ValueError: where ``received.root_update`` is None.
        """
        if received.root_update is None:
            raise ValueError("fltrust needs received.root_update, the server's own update")
        updates, present = present_rows(received)
        root, _ = usable_root(received.root_update)
        root_norm = safe_sqrt(matmul(root, root))
        norms = present_norms(received, present)
        # a vector of length 0 has no direction, and the derivative of its cosine no bound
        directed = present & (norms > 0) & (root_norm > 0)
        lengths = jnp.where(directed, norms * root_norm, 1.0)
        products = present_products(received.updates, present, root)
        cosines = jnp.where(directed, ratio(products, lengths), 0.0)
        trust = jnp.maximum(cosines, 0.0)
        weights = trust / jnp.maximum(trust.sum(), 1e-12) * root_norm
        weights = ratio(weights, jnp.where(directed, norms, 1.0))
        info = {"trust": trust, "rejected": count_rejected(received, present)}
        return weighted_sum(weights, updates), state, info
