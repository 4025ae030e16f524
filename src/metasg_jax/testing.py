"""Small inputs and games for tests, doctests and notebooks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.config import FLConfig, GameConfig
from metasg_jax.data import Dataset
from metasg_jax.game.bsmg import FLGame, Step
from metasg_jax.game.make import make_game
from metasg_jax.struct import Struct, field
from metasg_jax.types import Received


def received(updates, weights=None, root_update=None) -> Received:
    """A round's updates as the server would hold them, from nested lists or arrays [n, d].

    Args:
        updates: [n, d].
        weights: [n]; ones by default.
        root_update: [d] or None.
    """
    updates = jnp.asarray(updates, jnp.float32)
    n, d = updates.shape
    return Received(
        updates=updates,
        weights=jnp.ones((n,)) if weights is None else jnp.asarray(weights, jnp.float32),
        client_ids=jnp.arange(n, dtype=jnp.int32),
        w_global=jnp.zeros((d,)),
        root_update=None if root_update is None else jnp.asarray(root_update, jnp.float32),
        round=jnp.zeros((), jnp.int32),
    )


def tiny_dataset(num_classes: int = 3, side: int = 4, seed: int = 0) -> Dataset:
    """Noisy prototypes, one a class: learnable in a few steps, made in no time."""
    rng = np.random.default_rng(seed)
    prototypes = rng.integers(40, 216, (num_classes, side, side, 1))

    def draw(count):
        labels = rng.integers(0, num_classes, count).astype(np.int32)
        images = prototypes[labels] + rng.normal(0, 20, (count, side, side, 1))
        return np.clip(images, 0, 255).astype(np.uint8), labels

    return Dataset("tiny", *draw(300), *draw(90), num_classes)


def tiny_game(
    types: tuple[str, ...] = ("none", "ipm:scale=2@0.25", "bfl:boost=2@0.25"),
    fl: FLConfig | None = None,
    **settings,
) -> FLGame:
    """The FL game on :func:`tiny_dataset`: 8 clients, 4 sampled, 3 rounds.

    Args:
        types: as in :class:`~metasg_jax.config.GameConfig`.
        fl: other counts or learning rates.
        settings: other fields of :class:`~metasg_jax.config.GameConfig`.
    """
    fl = fl or FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=3, local_lr=0.5)
    defaults: dict[str, Any] = dict(
        hidden=(6,), level=0.5, num_root=12, num_validation=30, target=1
    )
    return make_game(GameConfig(types=types, **{**defaults, **settings}), fl, tiny_dataset())


class ProbeType(Struct):
    """A type of the probe game: what both players should aim at.

    Attributes:
        index: i32[].
        defender_aim: f32[] in (-1, 1).
        attacker_aim: f32[] in (-1, 1).
    """

    index: jax.Array
    defender_aim: jax.Array
    attacker_aim: jax.Array


class ProbePrior(Struct):
    """The probe game's types."""

    types: ProbeType
    probabilities: jax.Array
    names: tuple[str, ...] = field(static=True)
    adaptive: tuple[bool, ...] = field(static=True)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i) -> ProbeType:
        """The type at a Python or traced index."""
        return jax.tree.map(lambda leaf: leaf[i], self.types)


class ProbeGame(Struct):
    """A game with a known answer, for telling a broken learner from a hard game.

    Each round pays the defender ``-(a_D - aim_D)^2`` and the attacker ``-(a_A - aim_A)^2``, the
    aims depending on the type, which the defender sees (``revealed``) or doesn't. Best play is the
    aim itself; blind, it is the aims' mean under the prior.

    Attributes:
        prior: the types.
        revealed: static, whether the defender's observation is its aim or 0.
        horizon: static.
    """

    prior: ProbePrior
    revealed: bool = field(static=True, default=True)
    horizon: int = field(static=True, default=2)
    action_size: int = field(static=True, default=1)
    attacker_action_size: int = field(static=True, default=1)
    observation_size: int = field(static=True, default=1)
    attacker_observation_size: int = field(static=True, default=1)
    finite: bool = field(static=True, default=False)

    def reset(self, key, xi):
        """The round's number. ``key`` is consumed."""
        return jnp.zeros((), jnp.int32)

    def observe_attacker(self, state, xi):
        """Nothing to see: f32[1]."""
        return jnp.zeros((1,))

    def attack(self, key, state, xi, action):
        """(the attacker's action, obs f32[1], state)."""
        obs = xi.defender_aim if self.revealed else jnp.zeros_like(xi.defender_aim)
        return action, obs[None], state

    def defend(self, key, state, xi, received, action):
        """(state, Step)."""
        r_d = -((action[0] - xi.defender_aim) ** 2)
        r_a = -((received[0] - xi.attacker_aim) ** 2)
        return state + 1, Step(r_d, r_a, {"loss": -r_d, "diverged": jnp.zeros((), bool)})


def probe_game(
    defender_aims=(-0.6, 0.4),
    attacker_aims=(0.5, 0.5),
    adaptive=(False, True),
    probabilities=None,
    revealed: bool = True,
    horizon: int = 2,
) -> ProbeGame:
    """A probe game with one type an aim; see :class:`ProbeGame`."""
    k = len(defender_aims)
    types = ProbeType(
        index=jnp.arange(k, dtype=jnp.int32),
        defender_aim=jnp.asarray(defender_aims, jnp.float32),
        attacker_aim=jnp.asarray(attacker_aims, jnp.float32),
    )
    q = jnp.asarray(probabilities or [1 / k] * k, jnp.float32)
    prior = ProbePrior(types, q, tuple(f"type {i}" for i in range(k)), tuple(adaptive))
    return ProbeGame(prior, revealed, horizon)
