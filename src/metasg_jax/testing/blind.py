"""What games have in common in which nothing is seen and actions are knobs."""

from typing import Any

import jax.numpy as jnp

from metasg_jax.struct import Struct, field


class BlindGame(Struct):
    """Both players see zeros, f32[1]; the state is the round's number; the attack passes as it is.

    Subclasses add a ``prior`` and ``defend``, and change what differs.

    Attributes:
        horizon: static.
        action_size: static.
        attacker_action_size: static.
    """

    horizon: int = field(static=True, default=1, kw_only=True)
    action_size: int = field(static=True, default=1, kw_only=True)
    attacker_action_size: int = field(static=True, default=1, kw_only=True)

    @property
    def finite(self) -> bool:
        """False: actions are knobs."""
        return False

    @property
    def observation_spec(self) -> int:
        """1."""
        return 1

    @property
    def attacker_observation_size(self) -> int:
        """1."""
        return 1

    def reset(self, key, xi) -> Any:
        """The round's number, i32[]. ``key`` is consumed."""
        return jnp.zeros((), jnp.int32)

    def observe_attacker(self, state, xi):
        """Nothing to see: f32[1]."""
        return jnp.zeros((1,), jnp.float32)

    def attack(self, key, state, xi, action):
        """(the attacker's action, obs f32[1], state)."""
        return action, jnp.zeros((1,), jnp.float32), state
