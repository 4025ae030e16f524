"""A tanh-Gaussian policy: a small network gives the mean, the deviation is learned apart."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.policies.network import Network
from metasg_jax.types import Key, Params

_MAX_LOG_STD, _MIN_LOG_STD = 0.0, -4.0


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """``action = tanh(raw)``, ``raw ~ N(mean(obs), std)``, std independent of the observation.

    The density is that of ``raw``: the tanh's Jacobian does not depend on the parameters, so it
    cancels in every gradient and ratio.

    Attributes:
        action_size: A.
        hidden: widths of the hidden layers.
        init_std: standard deviation of a fresh policy.
        learn_std: whether the deviation is a parameter or stays ``init_std``.
    """

    action_size: int
    hidden: tuple[int, ...] = (32,)
    init_std: float = 0.5
    learn_std: bool = True

    def init(self, key: Key, observation_spec: int) -> Params:
        """Draws parameters; the mean is almost 0 everywhere at first. ``key`` is consumed."""
        network = Network(self.hidden, self.action_size)
        mean = network.init(key, jnp.zeros((observation_spec,), jnp.float32))["params"]
        if not self.learn_std:
            return {"mean": mean}
        return {"mean": mean, "log_std": self._initial_log_std()}

    def constant(self, params: Params, action: jax.Array, most: float = 1.0) -> Params:
        """The parameters with another last layer: the mode is ``action`` f32[A], whatever it sees.

        Args:
            params: of :meth:`init`.
            action: in [-1, 1].
            most: where a knob at its end is taken to be: from the very end a policy learns nothing.
        """
        last, mean = f"Dense_{len(self.hidden)}", params["mean"]
        # 10 is where the tanh is 1 in float32
        bias = jnp.clip(jnp.arctanh(jnp.clip(action, -most, most)), -10.0, 10.0)
        constant = {"kernel": jnp.zeros_like(mean[last]["kernel"]), "bias": bias}
        return {**params, "mean": {**mean, last: constant}}

    def carry(
        self, params: Params, fresh: Params, moves: tuple[tuple[int, int, int], ...]
    ) -> Params:
        """Parameters of another number of knobs: those of ``fresh`` where ``params`` has none.

        Args:
            params: trained.
            fresh: of this policy.
            moves: (first knob in ``params``, first in ``fresh``, how many) of those that both have.
        """

        def columns(own, new):
            for first, place, count in moves:
                new = new.at[..., place : place + count].set(own[..., first : first + count])
            return new

        last, mean = f"Dense_{len(self.hidden)}", params["mean"]
        layer = jax.tree.map(columns, mean[last], fresh["mean"][last])
        carried = {**params, "mean": {**mean, last: layer}}
        if "log_std" in params:
            carried["log_std"] = columns(params["log_std"], fresh["log_std"])
        return carried

    def sample(self, key: Key, params: Params, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(action f32[A], raw f32[A]) for an observation f32[O]. ``key`` is consumed."""
        mean, log_std = self.moments(params, obs)
        raw = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, jnp.float32)
        return jnp.tanh(raw), raw

    def log_prob(self, params: Params, obs: jax.Array, raw: jax.Array) -> jax.Array:
        """Log density f32[] of ``raw`` f32[A]."""
        mean, log_std = self.moments(params, obs)
        return normal_log_density(raw, mean, log_std)

    def mode(self, params: Params, obs: jax.Array) -> jax.Array:
        """Tanh of the mean, f32[A]."""
        return jnp.tanh(self.moments(params, obs)[0])

    def moments(self, params: Params, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean f32[A] and log of the standard deviation f32[A] of ``raw``."""
        network = Network(self.hidden, self.action_size)
        mean: Any = network.apply({"params": params["mean"]}, obs)
        log_std = params["log_std"] if self.learn_std else self._initial_log_std()
        return mean, bounded_log_std(log_std)

    def _initial_log_std(self) -> jax.Array:
        return jnp.full((self.action_size,), jnp.log(self.init_std), jnp.float32)


def normal_log_density(raw: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Log density f32[] of independent normals, each f32[A]."""
    z = (raw - mean) * jnp.exp(-log_std)
    return jnp.sum(-0.5 * z**2 - log_std - 0.5 * jnp.log(2 * jnp.pi))


def bounded_log_std(log_std: jax.Array) -> jax.Array:
    """Within what a policy may explore with."""
    return jnp.clip(log_std, _MIN_LOG_STD, _MAX_LOG_STD)
