"""Linear-quadratic leader-follower: analytic solutions, and a dial off strict competitiveness."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.config import MetaConfig
from metasg_jax.game.bsmg import Step
from metasg_jax.game.rollout import Player
from metasg_jax.struct import Struct, field
from metasg_jax.testing.blind import BlindGame
from metasg_jax.testing.prior import TypeTable, type_table
from metasg_jax.testing.quadrature import constant_mean, moments, one_round_episodes, stretch

# the adapted value is of degree 6 in each coordinate of the noise: 4 nodes are exact up to 7
_NODES = 4
_LEAST_STD = float(np.exp(-4.0))  # what the Gaussian policy cuts its deviation to


class LeaderFollowerType(Struct):
    """Quadratic payoffs of one type; u is the leader's move in R^2, v the follower's.

    Attributes:
        index: i32[].
        P: f32[2, 2], positive definite: the leader's own cost.
        c: f32[2], where that cost is 0.
        M: f32[2, 2], positive definite: the follower's cost of not responding.
        K: f32[2, 2], how its best response follows the leader.
        k: f32[2], its offset.
        tilt: f32[2], l of the term that breaks strict competitiveness.
    """

    index: jax.Array
    P: jax.Array
    c: jax.Array
    M: jax.Array
    K: jax.Array
    k: jax.Array
    tilt: jax.Array

    def payoff(self, u: jax.Array, v: jax.Array, dial) -> tuple[jax.Array, jax.Array]:
        """(r_D, r_A) of moves f32[2]."""
        x, e = u - self.c, v - self.K @ u - self.k
        r_a = 0.5 * (x @ self.P @ x) - 0.5 * (e @ self.M @ e)
        return -r_a + dial * (self.tilt @ v), r_a


class LeaderFollowerGame(BlindGame):
    """One round; actions are stretched, ``u = arctanh(a)``, so a tanh-Gaussian moves in Gaussians.

    With ``e = v - K u - k`` and ``x = u - c``::

        r_A = 1/2 x' P x - 1/2 e' M e
        r_D = -r_A + dial l' v

    The follower's objective is concave in v with the best response ``v* = K u + k``. At dial 0
    the game is strictly competitive (c = -1, d = 0 of Assumption 4.3). The leader's value is
    ``V(u) = E_Q[-1/2 x' P x + dial l' (K u + k)]``, so that

    - Stackelberg: ``u = (E P)^-1 E[P c + dial K' l]``;
    - the first-order gradient, with v held at its best response, is ``E[-P x]``: an algorithm that
      ignores how v* moves with u stops at ``(E P)^-1 E[P c]``, whatever the dial;
    - Danskin's identity (Lemma 4.5) is off by ``grad V - first order = dial E[K' l]``, linear in
      the dial.

    The policies' deviations shift values by constants and move none of these points.

    Attributes:
        prior: the types.
        dial: f32[], 0 is strictly competitive.
    """

    prior: TypeTable
    dial: jax.Array
    action_size: int = field(static=True, default=2, kw_only=True)
    attacker_action_size: int = field(static=True, default=2, kw_only=True)

    def defend(self, key, state, xi, received, action):
        """(state, Step)."""
        r_d, r_a = xi.payoff(stretch(action), stretch(received), self.dial)
        return state + 1, Step(r_d, r_a, {"loss": -r_d, "diverged": jnp.zeros((), bool)})

    def exact_values(self, xi, defender: Player, attacker: Player, discount):
        """(J_D, J_A): payoffs at the means, and the variances' share of the quadratic terms."""
        obs = jnp.zeros((1,), jnp.float32)
        mean_d, std_d = moments(defender, obs)
        mean_a, std_a = moments(attacker, obs)
        r_d, r_a = xi.payoff(mean_d, mean_a, self.dial)
        followed = xi.K.T @ xi.M @ xi.K
        noise = 0.5 * (jnp.diag(xi.P - followed) @ std_d**2 - jnp.diag(xi.M) @ std_a**2)
        return r_d - noise, r_a + noise

    def episodes(self, xi, defender: Player, attacker: Player, config: MetaConfig):
        """Quadrature over both players' noise, exact for one step of adaptation."""

        def payoff(u, v):
            return xi.payoff(u, v, self.dial)

        return one_round_episodes(defender, attacker, payoff, _NODES, config)

    def best_response(self, xi, defender: Player, attacker: Player, discount) -> Player:
        """Mean ``K E[u] + k``; the least deviation, where it is learned."""
        mean, _ = moments(defender, jnp.zeros((1,), jnp.float32))
        return constant_mean(attacker, xi.K @ mean + xi.k, std=jnp.float32(_LEAST_STD))


def leader_follower(
    dial: float = 0.0, probabilities: tuple[float, ...] = (0.5, 0.5)
) -> LeaderFollowerGame:
    """Two adaptive types that want different moves of the leader; see :class:`LeaderFollowerGame`.

    Args:
        dial: 0 is strictly competitive.
        probabilities: the prior Q over the two types; ``(1.0,)`` keeps the first alone.
    """
    tables = [
        dict(
            P=[[1.0, 0.2], [0.2, 0.8]],
            c=[0.5, -0.3],
            M=[[1.0, 0.1], [0.1, 0.8]],
            K=[[0.4, -0.2], [0.1, 0.3]],
            k=[0.3, -0.2],
            tilt=[1.0, -0.5],
        ),
        dict(
            P=[[0.6, -0.1], [-0.1, 1.2]],
            c=[-0.4, 0.4],
            M=[[0.8, -0.1], [-0.1, 1.1]],
            K=[[-0.3, 0.2], [0.2, 0.4]],
            k=[-0.2, 0.3],
            tilt=[-0.5, 1.0],
        ),
    ]
    types = [
        LeaderFollowerType(
            jnp.int32(0), **{name: jnp.asarray(a, jnp.float32) for name, a in table.items()}
        )
        for table in tables[: len(probabilities)]
    ]
    return LeaderFollowerGame(
        type_table(types, probabilities=probabilities), jnp.asarray(dial, jnp.float32)
    )


@dataclasses.dataclass(frozen=True)
class LeaderFollowerAnswer:
    """Analytic points of a leader-follower game, float64; moves are stretched actions.

    Attributes:
        stackelberg: f64[2], the leader's best move against followers that respond to it.
        value: V there, without noise.
        first_order: f64[2], where an algorithm that ignores how v* moves with u stops.
        first_order_value: V there.
        danskin_error: f64[2], grad V minus the first-order gradient; the same everywhere.
    """

    stackelberg: np.ndarray
    value: float
    first_order: np.ndarray
    first_order_value: float
    danskin_error: np.ndarray


@dataclasses.dataclass(frozen=True)
class AdaptedAnswer:
    """Meta policies' means where algorithms stop that adapt by exact gradients, float64.

    The defender adapts by ``m' = m + eta grad_u J_D(m, phi)``; followers respond to m' with the
    adaptation fixed (Algorithm 2, line 12): ``v = K m' + k``. With ``G = K' M K`` that is
    ``m' - c = A (m - c)``, ``A = I - eta (I + eta G)^-1 P``, and with ``x = m - c``

    - ``fomaml`` stops where ``E[P A x] = 0``;
    - ``reptile`` where ``E[(A - I - kappa_D P A) x] = 0``;
    - ``debiased_exact`` where ``E[(I - eta P + eta G)' P A x] = 0``;
    - ``anticipating``, the leader's best, has ``E[A' P A x] = dial E[A' K' l]``.

    Attributes:
        fomaml: f64[2].
        reptile: f64[2].
        debiased_exact: f64[2]. Differs from ``anticipating`` by O(eta) even at dial 0: phi also
            moves what the defender adapts to, so a response to m' alone doesn't minimise L_D and
            Danskin's identity does not hold.
        anticipating: f64[2].
    """

    fomaml: np.ndarray
    reptile: np.ndarray
    debiased_exact: np.ndarray
    anticipating: np.ndarray


def leader_follower_answer(game: LeaderFollowerGame) -> LeaderFollowerAnswer:
    """The analytic solution, for any dial."""
    dial, types = _float64(game)
    zero = np.zeros((2, 2))
    pull = _mean(types, lambda xi: xi.K.T @ xi.tilt)
    stackelberg = _solve(types, lambda xi: xi.P, dial * pull)
    first_order = _solve(types, lambda xi: xi.P, zero[0])
    return LeaderFollowerAnswer(
        stackelberg,
        leader_value(game, stackelberg),
        first_order,
        leader_value(game, first_order),
        dial * pull,
    )


def leader_value(game: LeaderFollowerGame, u) -> float:
    """V(u) of a move without noise, float64."""
    dial, types = _float64(game)
    u = np.asarray(u, np.float64)

    def one(xi):
        x = u - xi.c
        return -0.5 * x @ xi.P @ x + dial * xi.tilt @ (xi.K @ u + xi.k)

    return float(_mean(types, one))


def leader_gradient(game: LeaderFollowerGame, u) -> np.ndarray:
    """Grad V f64[2] at a move."""
    return first_order_gradient(game, u) + leader_follower_answer(game).danskin_error


def first_order_gradient(game: LeaderFollowerGame, u) -> np.ndarray:
    """The leader's gradient f64[2] with the followers held at their best responses to u."""
    _, types = _float64(game)
    u = np.asarray(u, np.float64)
    return _mean(types, lambda xi: -xi.P @ (u - xi.c))


def adapted_answer(
    game: LeaderFollowerGame, adapt_lr: float, defender_lr: float = 0.0
) -> AdaptedAnswer:
    """Where the outer updates stop when the defender adapts by one exact gradient.

    Args:
        game: any dial; all but ``anticipating`` ignore it.
        adapt_lr: eta.
        defender_lr: kappa_D, which ``reptile`` depends on.
    """
    dial, types = _float64(game)
    eta, eye = adapt_lr, np.eye(2)

    def bend(xi):
        return xi.K.T @ xi.M @ xi.K

    def a(xi):
        return eye - eta * np.linalg.solve(eye + eta * bend(xi), xi.P)

    zero = np.zeros(2)
    pull = _mean(types, lambda xi: a(xi).T @ xi.K.T @ xi.tilt)
    return AdaptedAnswer(
        fomaml=_solve(types, lambda xi: xi.P @ a(xi), zero),
        reptile=_solve(types, lambda xi: eye - a(xi) + defender_lr * xi.P @ a(xi), zero),
        debiased_exact=_solve(
            types, lambda xi: (eye - eta * xi.P + eta * bend(xi)).T @ xi.P @ a(xi), zero
        ),
        anticipating=_solve(types, lambda xi: a(xi).T @ xi.P @ a(xi), dial * pull),
    )


def _float64(game: LeaderFollowerGame):
    """(dial, [(probability, type in float64)])."""
    q = np.asarray(game.prior.probabilities, np.float64)
    types = [
        jax.tree.map(lambda leaf, i=i: np.asarray(leaf, np.float64)[i], game.prior.types)
        for i in range(len(game.prior))
    ]
    return float(game.dial), list(zip(q / q.sum(), types, strict=True))


def _mean(types, fun) -> np.ndarray:
    """E_Q of a function of the type."""
    return np.sum([q * np.asarray(fun(xi)) for q, xi in types], axis=0)


def _solve(types, matrix, shift) -> np.ndarray:
    """The m with ``E[B (m - c)] = shift``, B the matrix of a type."""
    weights = _mean(types, matrix)
    return np.linalg.solve(weights, _mean(types, lambda xi: matrix(xi) @ xi.c) + shift)
