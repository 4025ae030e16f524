"""A zero-sum game whose attacker breaks the Polyak-Lojasiewicz condition by a dial."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import root_scalar

from metasg_jax.config import MetaConfig
from metasg_jax.game.bsmg import Step
from metasg_jax.game.rollout import Player
from metasg_jax.struct import Struct
from metasg_jax.testing.blind import BlindGame
from metasg_jax.testing.prior import TypeTable, type_table
from metasg_jax.testing.quadrature import constant_mean, moments, one_round_episodes, stretch

_NODES = 24
_LEAST_STD = float(np.exp(-4.0))  # what the Gaussian policy cuts its deviation to
# tan z = z in (pi, 2 pi): where sin(z) / z is least
_DIP = float(root_scalar(lambda z: np.sin(z) - z * np.cos(z), bracket=(np.pi, 2 * np.pi)).root)


class DoubleWellType(Struct):
    """The one type.

    Attributes:
        index: i32[].
        dial: f32[] >= 0, height of the ripples.
        omega: f32[], their frequency.
        coupling: f32[] >= 0, b: how the leader's move scales the attacker's loss.
        curvature: f32[] > 0, p: the leader's own cost.
        target: f32[], x0 of that cost.
        offset: f32[], the attacker's place y where its stretched action is 0.
    """

    index: jax.Array
    dial: jax.Array
    omega: jax.Array
    coupling: jax.Array
    curvature: jax.Array
    target: jax.Array
    offset: jax.Array

    def payoff(self, u: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(r_D, r_A) of stretched actions f32[1]."""
        x, y = u[0], v[0] + self.offset
        loss = y**2 + self.dial * jnp.sin(self.omega * y) ** 2
        r_d = (1 + self.coupling * x**2) * loss - 0.5 * self.curvature * (x - self.target) ** 2
        return r_d, -r_d


class DoubleWellGame(BlindGame):
    """One round, zero-sum; x is the leader's stretched action, y the attacker's plus an offset.

    ``r_D = -r_A = (1 + b x^2) f(y) - p/2 (x - x0)^2``, ``f(y) = y^2 + dial sin^2(omega y)``: the
    landscape of Karimi, Nutini and Schmidt (ECML 2016). The attacker minimises f, whatever x.

    A Gaussian y with mean m and deviation s has
    ``E f = m^2 + s^2 + dial/2 (1 - exp(-2 omega^2 s^2) cos(2 omega m))``: noise flattens the
    ripples to ``dial exp(-2 omega^2 s^2)``. With z = 2 omega m its derivative is 0 where z = 0 or
    ``sin(z) / z = -exp(2 omega^2 s^2) / (dial omega^2)``, and sin(z)/z is never below -0.21723:

    - up to ``dial = 4.60334 exp(2 omega^2 s^2) / omega^2``, the threshold, m = 0 is the only
      stationary point and PL holds, though beyond the threshold over 4.60334 f isn't convex;
    - above it there are other wells, where the gradient is 0 and the value isn't the best.

    The solution is y = 0 and ``x = p x0 / (p - 2 b f_0)``, f_0 the least E f. An attacker that
    sits in another well, at f_1, makes ``p x0 / (p - 2 b f_1)`` look best. A fresh attacker starts
    at the offset, in that well if there is one.

    Attributes:
        prior: the type.
    """

    prior: TypeTable

    def defend(self, key, state, xi, received, action):
        """(state, Step)."""
        r_d, r_a = xi.payoff(stretch(action), stretch(received))
        return state + 1, Step(r_d, r_a, {"loss": -r_d, "diverged": jnp.zeros((), bool)})

    def exact_values(self, xi, defender: Player, attacker: Player, discount):
        """(J_D, J_A) in closed form."""
        obs = jnp.zeros((1,), jnp.float32)
        mean_d, std_d = (a[0] for a in moments(defender, obs))
        mean_a, std_a = (a[0] for a in moments(attacker, obs))
        y = mean_a + xi.offset
        ripple = jnp.exp(-2 * (xi.omega * std_a) ** 2) * jnp.cos(2 * xi.omega * y)
        loss = y**2 + std_a**2 + 0.5 * xi.dial * (1 - ripple)
        own = 0.5 * xi.curvature * ((mean_d - xi.target) ** 2 + std_d**2)
        j_d = (1 + xi.coupling * (mean_d**2 + std_d**2)) * loss - own
        return j_d, -j_d

    def episodes(self, xi, defender: Player, attacker: Player, config: MetaConfig):
        """Quadrature over both players' noise: close, not exact, as f is no polynomial."""
        return one_round_episodes(defender, attacker, xi.payoff, _NODES, config)

    def best_response(self, xi, defender: Player, attacker: Player, discount) -> Player:
        """The mean at y = 0; the least deviation, where it is learned."""
        return constant_mean(attacker, -xi.offset[None], std=jnp.float32(_LEAST_STD))


def double_well(dial: float = 2.0, offset: float = 1.3) -> DoubleWellGame:
    """A double-well game with omega = 2, b = 0.25, p = 2, x0 = 0.5; see :class:`DoubleWellGame`.

    The threshold is 1.1508 without noise, and 1.5848 at a deviation of 0.2.

    Args:
        dial: 0 is convex; below the threshold PL holds.
        offset: where a fresh attacker starts; 1.3 is in the wrong well, if there is one, 0 in the
            right one.
    """
    values = dict(dial=dial, omega=2.0, coupling=0.25, curvature=2.0, target=0.5, offset=offset)
    xi = DoubleWellType(jnp.int32(0), **{k: jnp.float32(v) for k, v in values.items()})
    return DoubleWellGame(type_table([xi], names=("double well",)))


@dataclasses.dataclass(frozen=True)
class DoubleWellAnswer:
    """Known points of a double-well game, float64; stretched actions' means.

    Attributes:
        threshold: the dial beyond which PL fails.
        leader: the solution's x.
        attacker: its v (y minus the offset).
        value: J_D there.
        wrong_leader: what the leader learns against an attacker in the other well (y > 0).
        wrong_attacker: its v.
        wrong_believed: J_D there, as long as the attacker stays.
        wrong_value: J_D of that leader against the best response.

    The ``wrong`` numbers are NaN up to the threshold.
    """

    threshold: float
    leader: float
    attacker: float
    value: float
    wrong_leader: float
    wrong_attacker: float
    wrong_believed: float
    wrong_value: float


def double_well_answer(
    game: DoubleWellGame, std_D: float = 0.0, std_A: float = 0.0
) -> DoubleWellAnswer:
    """Solves the game for policies of given deviations (before the tanh)."""
    xi = jax.tree.map(lambda leaf: float(leaf[0]), game.prior.types)
    damping = np.exp(-2 * (xi.omega * std_A) ** 2)
    threshold = -_DIP / np.sin(_DIP) / (xi.omega**2 * damping)

    def loss(m):
        ripple = damping * np.cos(2 * xi.omega * m)
        return m**2 + std_A**2 + 0.5 * xi.dial * (1 - ripple)

    def value(x, f):
        own = 0.5 * xi.curvature * ((x - xi.target) ** 2 + std_D**2)
        return (1 + xi.coupling * (x**2 + std_D**2)) * f - own

    def leader(f):
        return xi.curvature * xi.target / (xi.curvature - 2 * xi.coupling * f)

    best = loss(0.0)
    right = leader(best)
    nan = float("nan")
    if xi.dial <= threshold:
        wrong = (nan, nan, nan, nan)
    else:
        level = 1 / (xi.dial * damping * xi.omega**2)
        z = root_scalar(lambda z: np.sin(z) / z + level, bracket=(_DIP, 2 * np.pi)).root
        m = z / (2 * xi.omega)
        x = leader(loss(m))
        wrong = (x, m - xi.offset, value(x, loss(m)), value(x, best))
    numbers = (threshold, right, -xi.offset, value(right, best), *wrong)
    return DoubleWellAnswer(*map(float, numbers))
