"""FLTrust (Cao et al., NDSS 2021)."""

import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.presence import count_rejected, present_norms, present_rows
from metasg_jax.rows import weighted_sum


class FLTrust(AggregatorBase):
    """Weighs each update by its cosine to the server's own, cut at 0, after equalising the norms.

    update = sum_i ReLU(cos(u_i, u_0)) * |u_0| / |u_i| * u_i / sum_i ReLU(cos(u_i, u_0)), with u_0
    the update trained on root data.

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
        root = received.root_update
        root_norm = jnp.sqrt(jnp.vdot(root, root))
        norms = jnp.maximum(present_norms(received, present), 1e-12)
        # of the rows as received: zeroed first, they would be written out once more
        products = jnp.where(present, received.updates @ root, 0.0)
        cosines = products / (norms * jnp.maximum(root_norm, 1e-12))
        trust = jnp.where(present, jnp.maximum(cosines, 0.0), 0.0)
        weights = trust / jnp.maximum(trust.sum(), 1e-12) * root_norm / norms
        info = {"trust": trust, "rejected": count_rejected(received, present)}
        return weighted_sum(weights, updates), state, info
