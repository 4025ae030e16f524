"""What crosses the boundaries between rooms: a few pytrees and the protocols that variants obey.

Axis letters, used in every docstring:

====  =========================================  ====  ==============================
N     clients in all                             C     classes
n     clients sampled in a round                 U     hidden units of a model
m     malicious clients among the n              O     size of an observation
B     images in a batch                          A     size of an action
S     local steps of a client                    H     rounds of an episode
d     parameters of the model, raveled           K     attacker types in the prior
R     images the server itself holds (root)      E, G  groups, rollouts of a group
====  =========================================  ====  ==============================

Arguments come in one order everywhere: ``(key, state, data, action) -> (out, state, info)``.
``key`` is a typed ``jax.random.key`` and is consumed: the caller never uses it again.
"""

from typing import Any, ClassVar, Protocol

import jax

from metasg_jax.struct import Struct

Key = jax.Array
Params = Any
Info = dict[str, jax.Array]


class Received(Struct):
    """What the server holds when the clients of a round have answered.

    Attributes:
        updates: f32[n, d], row i is ``w_global - w_i``: the server *subtracts* (the paper's sign).
        weights: f32[n], non-negative; 0 marks a row that is not there. A row with a non-finite
            entry is treated as not there too (see :func:`metasg_jax.aggregators.present_rows`).
        client_ids: i32[n].
        w_global: f32[d], the model that was sent out.
        root_update: f32[d], the server's own update on its root data; None unless a rule or an
            observation declares ``needs_root``.
        round: i32[], counted from 0.
    """

    updates: jax.Array
    weights: jax.Array
    client_ids: jax.Array
    w_global: jax.Array
    root_update: jax.Array | None
    round: jax.Array


class Deployed(Struct):
    """A model as it is put to use: parameters and upper bounds on its hidden units.

    Attributes:
        params: pytree of the model.
        clip: f32[U], +inf where a unit is not bounded, 0 where it is pruned.
    """

    params: Params
    clip: jax.Array


class Model(Protocol):
    """A classifier. Static (hashable); its parameters are a pytree, raveled at its boundary."""

    @property
    def input_shape(self) -> tuple[int, ...]: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def num_units(self) -> int: ...

    def init(self, key: Key) -> Params: ...

    def apply(self, params: Params, x: jax.Array, clip: jax.Array | None = None) -> jax.Array:
        """Logits f32[B, C] of images f32[B, h, w, c] in [0, 1]."""
        ...

    def activations(self, params: Params, x: jax.Array, clip: jax.Array | None = None) -> jax.Array:
        """f32[B, U]: what neuron clipping bounds and pruning reads."""
        ...

    def ravel(self, params: Params) -> jax.Array: ...

    def unravel(self, w: jax.Array) -> Params: ...


class Aggregator(Protocol):
    """A rule that turns a round's updates into one. See :mod:`metasg_jax.aggregators`."""

    @property
    def needs_root(self) -> bool: ...

    @property
    def action_spec(self) -> tuple[str, ...]: ...

    @property
    def per_client(self) -> bool:
        """Whether an action begins with an entry for each row, before the knobs."""
        ...

    def init(self, n: int, d: int) -> Any: ...

    def __call__(
        self, key: Key, state: Any, received: Received, action: jax.Array | None = None
    ) -> tuple[jax.Array, Any, Info]: ...


class PreAggregator(Protocol):
    """What changes a round's rows before the rule. See :mod:`metasg_jax.pre_aggregators`."""

    @property
    def needs_root(self) -> bool: ...

    @property
    def action_spec(self) -> tuple[str, ...]: ...

    def init(self, n: int, d: int) -> Any: ...

    def num_rows(self, n: int) -> int:
        """How many rows leave, of ``n`` that enter: a static number."""
        ...

    def __call__(
        self, key: Key, state: Any, received: Received, action: jax.Array | None = None
    ) -> tuple[Received, Any, Info]: ...


class Attack(Protocol):
    """How malicious clients train (``plan``) and what they send (``craft``).

    See :mod:`metasg_jax.attacks`.
    """

    pools_images: ClassVar[bool]
    trains_twice: ClassVar[bool]
    uses: ClassVar[tuple[str, ...]]
    action_spec: ClassVar[tuple[str, ...]]

    @property
    def noise(self) -> Any: ...

    @property
    def knowledge(self) -> str: ...

    @property
    def second_pass_steps(self) -> int: ...

    @property
    def sees_model(self) -> bool: ...

    def check_trigger(self, mask: jax.Array) -> None: ...

    def init(self, n: int, d: int) -> Any: ...

    def plan(self, key: Key, state: Any, ctx: Any, action: jax.Array) -> tuple[Any, Any, Info]: ...

    def craft(
        self, key: Key, state: Any, ctx: Any, action: jax.Array
    ) -> tuple[jax.Array, Any, Info]: ...


class PostDefense(Protocol):
    """A post-training defence: turns a copy of the model into another, so defences compose.

    See :mod:`metasg_jax.post_defenses`.
    """

    @property
    def action_spec(self) -> tuple[str, ...]: ...

    def check(self) -> None:
        """Raises ConfigError for a field out of range; fields are Python numbers here."""
        ...

    def calibrate(
        self, model: Model, deployed: Deployed, root_x: jax.Array, root_y: jax.Array
    ) -> Any: ...

    def __call__(
        self, key: Key, state: Any, deployed: Deployed, action: jax.Array | None = None
    ) -> tuple[Deployed, Any, Info]: ...


class Policy(Protocol):
    """A distribution over actions given an observation. Static; its parameters are a pytree."""

    @property
    def action_size(self) -> int: ...

    def init(self, key: Key, observation_spec: Any) -> Params: ...

    def sample(self, key: Key, params: Params, obs: Any) -> tuple[jax.Array, jax.Array]:
        """Draws (action f32[A], raw f32[A]); ``raw`` is what ``log_prob`` takes."""
        ...

    def log_prob(self, params: Params, obs: Any, raw: jax.Array) -> jax.Array: ...

    def mode(self, params: Params, obs: Any) -> jax.Array: ...


class Game(Protocol):
    """A Bayesian Stackelberg Markov game; a round has two halves. See :mod:`metasg_jax.game`."""

    @property
    def prior(self) -> Any: ...

    @property
    def horizon(self) -> int: ...

    @property
    def finite(self) -> bool:
        """Whether actions are choices, one-hot f32[A], and not knobs in [-1, 1]^A."""
        ...

    @property
    def action_size(self) -> int: ...

    @property
    def attacker_action_size(self) -> int: ...

    @property
    def observation_spec(self) -> Any:
        """O where the defender sees an f32[O]; else a pytree of ShapeDtypeStructs."""
        ...

    @property
    def attacker_observation_size(self) -> int: ...

    def reset(self, key: Key, xi: Any) -> Any: ...

    def observe_attacker(self, state: Any, xi: Any) -> jax.Array: ...

    def attack(
        self, key: Key, state: Any, xi: Any, action: jax.Array
    ) -> tuple[Any, jax.Array, Any]: ...

    def defend(
        self, key: Key, state: Any, xi: Any, received: Any, action: jax.Array
    ) -> tuple[Any, Any]: ...
