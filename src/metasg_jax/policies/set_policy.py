"""A policy over a set of clients: whom to believe, and knobs over those."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.scipy.special import logit

from metasg_jax.aggregators.client_trust import ClientTrust, knob_of_trim
from metasg_jax.errors import ConfigError
from metasg_jax.features.view import ClientView, is_blind, known_columns
from metasg_jax.policies.gaussian import bounded_log_std, normal_log_density
from metasg_jax.types import Key, Params


class DeepSets(nn.Module):
    """Tanh layers; from the second on a client also sees the mean of the present clients' units.

    Zaheer et al. (NeurIPS 2017): equivariant, for any number of clients.

    Attributes:
        hidden: widths.
    """

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, clients: jax.Array, present: jax.Array) -> jax.Array:
        """Units f32[n, width] of clients f32[n, k], of which bool[n] are present."""
        units = nn.tanh(nn.Dense(self.hidden[0])(clients))
        for width in self.hidden[1:]:
            mean = jnp.broadcast_to(pooled(units, present)[None], units.shape)
            units = nn.tanh(nn.Dense(width)(jnp.concatenate([units, mean], axis=1)))
        return units


class Attention(nn.Module):
    """Tanh layers; from the second on a client attends to the present clients.

    One head a layer with a residual path; equivariant, for any number of clients. Memory and time
    grow with n squared.

    Attributes:
        hidden: widths.
    """

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, clients: jax.Array, present: jax.Array) -> jax.Array:
        """As :class:`DeepSets`."""
        units = nn.tanh(nn.Dense(self.hidden[0])(clients))
        for width in self.hidden[1:]:
            query, key, value = (nn.Dense(width)(units) for _ in range(3))
            scores = query @ key.T / jnp.sqrt(float(width))
            weights = jax.nn.softmax(jnp.where(present[None, :], scores, -1e9), axis=1)
            seen = jnp.concatenate([units, weights @ value], axis=1)
            units = nn.tanh(nn.Dense(width)(seen))
        return units


def pooled(units: jax.Array, present: jax.Array) -> jax.Array:
    """Mean f32[k] over the present rows of f32[n, k]; 0 if there is none."""
    total = jnp.where(present[:, None], units, 0.0).sum(axis=0)
    return total / jnp.maximum(present.sum(), 1)


class TrustNetwork(nn.Module):
    """A set network with a logit for each client and a mean for each knob.

    Attributes:
        body: ``deep_sets`` or ``attention``.
        hidden: widths.
        knobs: where the knobs begin, in (-1, 1): tanh of their biases.
    """

    body: str
    hidden: tuple[int, ...]
    knobs: tuple[float, ...]

    @nn.compact
    def __call__(self, view: ClientView) -> tuple[jax.Array, jax.Array]:
        """(logits f32[n], raw means of the knobs f32[k])."""
        of_clients, of_round = known_columns(view.known)
        clients = jnp.where(of_clients[None], view.clients, 0.0)
        context = jnp.where(of_round, view.round, 0.0)
        context = jnp.concatenate([context, view.known.astype(jnp.float32)])
        # the first layer is linear in the context: computed once, not once a client
        shared = nn.Dense(self.hidden[0], use_bias=False, name="context")(context)
        shared = jnp.broadcast_to(shared[None], (clients.shape[0], shared.shape[0]))
        body = BODIES[self.body](self.hidden, name="body")
        units = body(jnp.concatenate([clients, shared], axis=1), view.present)
        small = nn.initializers.normal(0.01)
        logits = nn.Dense(1, kernel_init=small, name="trust")(units)[:, 0]
        centre = jnp.arctanh(jnp.asarray(self.knobs))
        summary = jax.lax.stop_gradient(pooled(units, view.present))
        means = nn.Dense(
            len(self.knobs), kernel_init=nn.initializers.zeros,
            bias_init=lambda *_: centre, name="knobs",
        )(summary)  # fmt: skip
        return logits, means


BODIES = {"deep_sets": DeepSets, "attention": Attention}


@dataclasses.dataclass(frozen=True)
class SetPolicy:
    """Keeps or leaves each client (Bernoulli) and turns knobs (tanh-Gaussian).

    An action is f32[n + k]: +1 or -1 for each client, then the knobs in [-1, 1]. The mode keeps
    whoever is more likely than ``threshold`` to be worth keeping, and the likeliest present client
    where that is nobody. Of one set of weights for any n: only :attr:`action_size` names n.

    Attributes:
        num_clients: n.
        knobs: where a fresh policy's knobs stand, each in (-1, 1).
        hidden: widths of the set network.
        body: ``deep_sets`` or ``attention``.
        init_std: of the knobs, before the tanh.
        learn_std: whether that deviation is a parameter.
        threshold: in (0, 1).
        blind_threshold: the same for a server that has nothing of its own to look with. Who was
            taught to doubt whom it can't be sure of would keep nobody there.
        least_knobs: what the mode turns each knob to at least, in [-1, 1]; empty for no such limit.

    Raises:
        ConfigError: for a threshold out of range.
    """

    num_clients: int
    knobs: tuple[float, ...]
    hidden: tuple[int, ...] = (64, 64)
    body: str = "deep_sets"
    init_std: float = 0.3
    learn_std: bool = False
    threshold: float = 0.5
    blind_threshold: float = 0.5
    least_knobs: tuple[float, ...] = ()

    def __post_init__(self):
        """Checks the thresholds."""
        for name in ("threshold", "blind_threshold"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name):g}: in (0, 1)")

    def stricter(self, threshold: float | None = None, trim: float | None = None) -> "SetPolicy":
        """The same policy, of ``client_trust``, as its user wants it deployed.

        Args:
            threshold: in (0, 1), for servers that look and for those that can't.
            trim: from 0 to 0.45, the least share of the kept that is dropped at each side of every
                coordinate.

        Raises:
            ConfigError: for a value out of range.
        """
        changes: dict[str, Any] = {}
        if threshold is not None:
            changes |= {"threshold": threshold, "blind_threshold": threshold}
        if trim is not None:
            most = ClientTrust().max_trim
            if not 0 <= trim <= most:
                raise ConfigError(f"trim = {trim:g}: from 0 to {most:g}")
            changes["least_knobs"] = (-1.0, knob_of_trim(trim), -1.0)
        return dataclasses.replace(self, **changes)

    def strict_params(self, params: Params, threshold: float, trim: float) -> Params:
        """Parameters that decide by a threshold and trim a share.

        As :meth:`stricter` with both, but the trim is no least one: it stands still.

        Args:
            params: of this policy.
            threshold: in (0, 1), where this policy looks.
            trim: from 0 to 0.45.
        """
        network: Any = params["network"]
        trust, knobs = network["trust"], network["knobs"]
        shift = logit(jnp.float32(threshold)) - logit(jnp.float32(self.threshold))
        place = ClientTrust.action_spec.index("trim")
        mean = jnp.arctanh(jnp.clip(knob_of_trim(trim), -0.999, 0.999))
        network = network | {
            "trust": trust | {"bias": trust["bias"] - shift},
            "knobs": {
                "bias": knobs["bias"].at[place].set(mean),
                "kernel": knobs["kernel"].at[:, place].set(0.0),
            },
        }
        return params | {"network": network}

    @property
    def action_size(self) -> int:
        """N + k."""
        return self.num_clients + len(self.knobs)

    def init(self, key: Key, observation_spec: Any) -> Params:
        """Draws parameters for views of these shapes. ``key`` is consumed."""
        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), observation_spec)
        params = {"network": self._network().init(key, blank)["params"]}
        if self.learn_std:
            params["log_std"] = self._initial_log_std()
        return params

    def sample(self, key: Key, params: Params, obs: ClientView) -> tuple[jax.Array, jax.Array]:
        """(action f32[n + k], the same before the tanh). ``key`` is consumed."""
        key_keep, key_knobs = jax.random.split(key)
        logits, means = self.moments(params, obs)
        kept = jax.random.bernoulli(key_keep, jax.nn.sigmoid(logits))
        keep = jnp.where(kept, 1.0, -1.0)
        noise = jnp.exp(self._log_std(params)) * jax.random.normal(
            key_knobs, means.shape, jnp.float32
        )
        raw = jnp.concatenate([keep, means + noise])
        return jnp.concatenate([keep, jnp.tanh(means + noise)]), raw

    def log_prob(self, params: Params, obs: ClientView, raw: jax.Array) -> jax.Array:
        """Log density f32[] of ``raw``: summed over present clients, and the knobs' density."""
        per_client, knobs = self.scores(params, obs, raw)
        return per_client.sum() + knobs

    def scores(self, params: Params, obs: ClientView, raw: jax.Array):
        """(log probability of each client's decision f32[n], 0 if absent; that of the knobs)."""
        logits, means = self.moments(params, obs)
        n = logits.shape[0]
        per_client = jnp.where(obs.present, jax.nn.log_sigmoid(raw[:n] * logits), 0.0)
        log_std = self._log_std(params)
        return per_client, normal_log_density(raw[n:], means, log_std)

    def mode(self, params: Params, obs: ClientView) -> jax.Array:
        """F32[n + k]."""
        logits, means = self.moments(params, obs)
        threshold = jnp.where(is_blind(obs.known), self.blind_threshold, self.threshold)
        kept = jax.nn.sigmoid(logits) > threshold
        present = obs.present
        best = jnp.argmax(jnp.where(present, logits, -jnp.inf))
        only = jnp.arange(logits.shape[0]) == best
        kept = jnp.where((kept & present).any(), kept, only)
        knobs = jnp.tanh(means)
        if self.least_knobs:
            knobs = jnp.maximum(knobs, jnp.asarray(self.least_knobs))
        return jnp.concatenate([jnp.where(kept, 1.0, -1.0), knobs])

    def trust(self, params: Params, obs: ClientView) -> jax.Array:
        """How likely each client is to be worth keeping, f32[n] in [0, 1]; 0 if absent."""
        logits, _ = self.moments(params, obs)
        return jnp.where(obs.present, jax.nn.sigmoid(logits), 0.0)

    def moments(self, params: Params, obs: ClientView) -> tuple[jax.Array, jax.Array]:
        """Logits f32[n] and raw means of the knobs f32[k]."""
        out: Any = self._network().apply({"params": params["network"]}, obs)
        return out

    def _network(self) -> TrustNetwork:
        return TrustNetwork(self.body, self.hidden, self.knobs)

    def _log_std(self, params: Params) -> jax.Array:
        log_std = params["log_std"] if self.learn_std else self._initial_log_std()
        return bounded_log_std(log_std)

    def _initial_log_std(self) -> jax.Array:
        return jnp.full((len(self.knobs),), jnp.log(self.init_std), jnp.float32)
