"""A constant action: the control that every learned defence has to beat."""

import dataclasses

import jax
import jax.numpy as jnp

from metasg_jax.types import Key, Params


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Plays its parameters, an action f32[A] in [-1, 1], whatever it sees.

    Attributes:
        action_size: A.
    """

    action_size: int

    def init(self, key: Key, observation_spec: int) -> Params:
        """The centre action."""
        return jnp.zeros((self.action_size,), jnp.float32)

    def sample(self, key: Key, params: Params, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(the action, the action)."""
        return params, params

    def log_prob(self, params: Params, obs: jax.Array, raw: jax.Array) -> jax.Array:
        """0: there is nothing to choose."""
        return jnp.zeros((), jnp.float32)

    def mode(self, params: Params, obs: jax.Array) -> jax.Array:
        """The action."""
        return params
