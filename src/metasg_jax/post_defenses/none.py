"""No post-training defence."""

import jax.numpy as jnp

from metasg_jax.struct import Struct
from metasg_jax.types import Deployed, Model, Params


def undefended(model: Model, params: Params) -> Deployed:
    """The model as it was trained, +inf for each of the U units."""
    return Deployed(params, jnp.full((model.num_units,), jnp.inf, jnp.float32))


class NoDefense(Struct):
    """Deploys the model as it is."""

    action_spec = ()

    def check(self):
        """Nothing to check."""

    def calibrate(self, model, deployed, root_x, root_y):
        """Nothing to calibrate."""
        return ()

    def __call__(self, key, state, deployed, action=None):
        """(deployed as it came, state, info)."""
        return deployed, state, {}
