"""Uniformly random actions: a control."""

import dataclasses

import jax
import jax.numpy as jnp

from metasg_jax.types import Key, Params


@dataclasses.dataclass(frozen=True)
class Random:
    """Draws each knob uniformly from [-1, 1], independently each round.

    Attributes:
        action_size: A.
    """

    action_size: int

    def init(self, key: Key, observation_spec: int) -> Params:
        """No parameters."""
        return ()

    def sample(self, key: Key, params: Params, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(action, action). ``key`` is consumed."""
        action = jax.random.uniform(
            key, (self.action_size,), minval=-1.0, maxval=1.0, dtype=jnp.float32
        )
        return action, action

    def log_prob(self, params: Params, obs: jax.Array, raw: jax.Array) -> jax.Array:
        """A log 1/2."""
        return -self.action_size * jnp.log(2.0)

    def mode(self, params: Params, obs: jax.Array) -> jax.Array:
        """The centre: a uniform density has no mode. Play it sampled."""
        return jnp.zeros((self.action_size,), jnp.float32)
