"""No post-training defence."""

import jax.numpy as jnp

from metasg_jax.struct import Struct
from metasg_jax.types import Deployed


class NoDefense(Struct):
    """Deploys the global model as it is."""

    action_spec = ()

    def calibrate(self, model, params, root_x):
        """+inf for each of the U units."""
        return jnp.full((model.num_units,), jnp.inf)

    def __call__(self, key, state, params, action=None):
        """(Deployed with nothing clipped, state, info)."""
        return Deployed(params, state), state, {}
