"""A game with a known answer, for telling a broken learner from a hard game."""

import jax
import jax.numpy as jnp

from metasg_jax.config import MetaConfig
from metasg_jax.game.bsmg import Step
from metasg_jax.game.rollout import Player
from metasg_jax.struct import Struct, field
from metasg_jax.testing.blind import BlindGame
from metasg_jax.testing.prior import TypeTable, type_table
from metasg_jax.testing.quadrature import constant_mean, draws, newton_maximum

_NODES = 32


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


ProbePrior = TypeTable
"""The probe game's types, of :class:`ProbeType`."""


class ProbeGame(BlindGame):
    """A game with a known answer, for telling a broken learner from a hard game.

    Each round pays the defender ``-(a_D - aim_D)^2`` and the attacker ``-(a_A - aim_A)^2``, the
    aims depending on the type, which the defender sees (``revealed``) or doesn't. Best play is the
    aim itself; blind, it is the aims' mean under the prior.

    Attributes:
        prior: the types.
        revealed: static, whether the defender's observation is its aim or 0.
        horizon: static.
    """

    prior: TypeTable
    revealed: bool = field(static=True, default=True)
    horizon: int = field(static=True, default=2, kw_only=True)

    def attack(self, key, state, xi, action):
        """(the attacker's action, obs f32[1], state)."""
        return action, self._observation(xi), state

    def defend(self, key, state, xi, received, action):
        """(state, Step)."""
        r_d = -((action[0] - xi.defender_aim) ** 2)
        r_a = -((received[0] - xi.attacker_aim) ** 2)
        return state + 1, Step(r_d, r_a, {"loss": -r_d, "diverged": jnp.zeros((), bool)})

    def exact_values(self, xi, defender: Player, attacker: Player, discount):
        """(J_D, J_A), by quadrature; the players don't meet and rounds are alike."""
        rounds = (discount ** jnp.arange(self.horizon)).sum()
        own = draws(defender, self._observation(xi), _NODES)
        theirs = draws(attacker, jnp.zeros((1,), jnp.float32), _NODES)
        r_d = -(own.weights @ (own.action[:, 0] - xi.defender_aim) ** 2)
        r_a = -(theirs.weights @ (theirs.action[:, 0] - xi.attacker_aim) ** 2)
        return rounds * r_d, rounds * r_a

    def episodes(self, xi, defender: Player, attacker: Player, config: MetaConfig):
        """Not enumerated: raises ValueError."""
        raise ValueError("the probe game's episodes are not enumerated; take objective='exact'")

    def best_response(self, xi, defender: Player, attacker: Player, discount) -> Player:
        """The attacker whose mean is best at its own deviation."""

        def payoff(mean):
            player = constant_mean(attacker, mean[None])
            return self.exact_values(xi, defender, player, discount)[1]

        return constant_mean(attacker, newton_maximum(payoff, -4.0, 4.0)[None])

    def _observation(self, xi):
        return (xi.defender_aim if self.revealed else jnp.zeros_like(xi.defender_aim))[None]


def probe_game(
    defender_aims=(-0.6, 0.4),
    attacker_aims=(0.5, 0.5),
    adaptive=(False, True),
    probabilities=None,
    revealed: bool = True,
    horizon: int = 2,
) -> ProbeGame:
    """A probe game with one type an aim; see :class:`ProbeGame`."""
    types = [
        ProbeType(jnp.int32(0), jnp.float32(d), jnp.float32(a))
        for d, a in zip(defender_aims, attacker_aims, strict=True)
    ]
    table = type_table(types, adaptive=adaptive, probabilities=probabilities or ())
    return ProbeGame(table, revealed, horizon=horizon)
