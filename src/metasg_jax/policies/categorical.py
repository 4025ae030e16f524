"""A categorical policy for games with finitely many actions; actions are one-hot vectors."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.policies.network import Network
from metasg_jax.types import Key, Params


@dataclasses.dataclass(frozen=True)
class Categorical:
    """``P(i) = softmax(0, l_1, .., l_(A-1))_i``, the logits l a network of the observation.

    The first action's logit is 0, so that the parameters are identified: no direction leaves the
    policy as it is, which a non-singular Hessian needs (Lemma D.3). Without hidden layers and with
    one-hot observations it is tabular.

    Attributes:
        action_size: A, the number of actions.
        hidden: widths of the hidden layers.
    """

    action_size: int
    hidden: tuple[int, ...] = ()

    def init(self, key: Key, observation_spec: int) -> Params:
        """Draws parameters; all actions are almost equally likely at first. ``key`` is consumed."""
        return self._network().init(key, jnp.zeros((observation_spec,), jnp.float32))["params"]

    def sample(self, key: Key, params: Params, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(one-hot action f32[A], the same) for an observation f32[O]. ``key`` is consumed."""
        index = jax.random.categorical(key, self.logits(params, obs))
        action = jax.nn.one_hot(index, self.action_size)
        return action, action

    def log_prob(self, params: Params, obs: jax.Array, raw: jax.Array) -> jax.Array:
        """Log probability f32[] of the one-hot action ``raw`` f32[A]."""
        return jax.nn.log_softmax(self.logits(params, obs)) @ raw

    def mode(self, params: Params, obs: jax.Array) -> jax.Array:
        """The likeliest action, one-hot f32[A]; the first on ties."""
        return jax.nn.one_hot(jnp.argmax(self.logits(params, obs)), self.action_size)

    def logits(self, params: Params, obs: jax.Array) -> jax.Array:
        """f32[A], the first 0."""
        free: Any = self._network().apply({"params": params}, obs)
        return jnp.concatenate([jnp.zeros((1,), jnp.float32), free])

    def _network(self) -> Network:
        # without a bias, a row an observation where it is one-hot
        return Network(self.hidden, self.action_size - 1, use_bias=bool(self.hidden))
