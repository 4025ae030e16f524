"""One-dimensional federated learning with a quadratic loss: exact values by moments."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize_scalar

from metasg_jax.config import MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.game.bsmg import Step
from metasg_jax.game.rollout import Player
from metasg_jax.struct import Struct, field
from metasg_jax.testing.blind import BlindGame
from metasg_jax.testing.prior import TypeTable, type_table
from metasg_jax.testing.quadrature import constant_mean, draws, newton_maximum

_NODES = 32
_NUM_CLIENTS, _NUM_MALICIOUS = 10, 2
_SHARE = _NUM_MALICIOUS / _NUM_CLIENTS


class QuadraticFLType(Struct):
    """One type of attacker.

    Attributes:
        index: i32[].
        participation: f32[] in [0, 1], the chance that a round samples its 2 clients of 10.
        scale: f32[], IPM's, where it is fixed.
        turns_scale: f32[], 1 where the attacker's action sets the scale, else 0.
        max_scale: f32[], the action's -1 .. 1 is 0 .. this.
        cost: f32[] >= 0, weight of (scale - usual)^2, which the attacker pays to the defender.
        usual: f32[], the scale that costs nothing.
    """

    index: jax.Array
    participation: jax.Array
    scale: jax.Array
    turns_scale: jax.Array
    max_scale: jax.Array
    cost: jax.Array
    usual: jax.Array


class QuadraticFLState(Struct):
    """Between two rounds.

    Attributes:
        w: f32[], the global model.
        round: i32[].
    """

    w: jax.Array
    round: jax.Array


class QuadraticFLGame(BlindGame):
    """The global model is a number w, every client's loss w^2/2.

    A round: honest clients send ``w`` plus noise of variance sigma^2 each. With the type's
    probability 2 of the 10 clients are malicious and send ``-scale`` times the honest mean (IPM).
    The server takes a step alpha of the mean of all: ``w' = w - alpha c (w + z)``, with c = 1 or
    ``c = 1 - 0.2 (1 + scale)``, z the mean noise of the 10 or 8 honest ones. The defender's action
    is alpha = (1 + a) / 2, an adaptive attacker's scale = max_scale (1 + a) / 2.

    ``r_D = -w'^2 [+ cost (scale - usual)^2]``; r_A is its negative where malicious clients were
    sampled, else 0: so the game is strictly competitive on rounds with malicious clients, and not
    on the others. Nothing is observed. Episodes start at w = 1.

    Without observations alpha, scale and w are independent within a round, so
    ``E w'^2 = E w^2 E(1 - alpha c)^2 + E alpha^2 E c^2 var z``: values need only the first two
    moments of both players' moves, see :func:`second_moments`.

    Answers, for players without noise (:func:`quadratic_fl_answer`): a constant alpha earns a
    polynomial of degree 2 H in it. Against the adaptive type at participation 1 the payoff depends
    on alpha c alone but for the cost, so where the step is best the scale has no first-order
    effect, and the attacker plays the usual one: c = 0.6. With H = 1 the three best steps are
    1 / 1.8, 0.4 / 0.94 and 1 / 1.2.

    Attributes:
        prior: the types.
        noise: f32[], sigma^2.
        horizon: static.
    """

    prior: TypeTable
    noise: jax.Array
    horizon: int = field(static=True, default=2, kw_only=True)

    def reset(self, key, xi):
        """The first model. ``key`` is consumed."""
        return QuadraticFLState(jnp.ones((), jnp.float32), jnp.zeros((), jnp.int32))

    def attack(self, key, state, xi, action):
        """((mean update f32[], malicious clients i32[], scale f32[]), obs f32[1], state)."""
        key_sample, key_noise = jax.random.split(key)
        sampled = jax.random.bernoulli(key_sample, xi.participation)
        turned = xi.max_scale * (1 + action[0]) / 2
        scale = jnp.where(xi.turns_scale > 0, turned, xi.scale)
        malicious = jnp.where(sampled, _NUM_MALICIOUS, 0)
        variance = self.noise / (_NUM_CLIENTS - malicious)
        honest = state.w + jnp.sqrt(variance) * jax.random.normal(key_noise, dtype=jnp.float32)
        update = honest * jnp.where(sampled, 1 - _SHARE * (1 + scale), 1.0)
        return (update, malicious, scale), jnp.zeros((1,), jnp.float32), state

    def defend(self, key, state, xi, received, action):
        """(state, Step). ``key`` is consumed."""
        update, malicious, scale = received
        w = state.w - (1 + action[0]) / 2 * update
        attacked = malicious > 0
        r_d = -(w**2) + jnp.where(attacked, xi.cost * (scale - xi.usual) ** 2, 0.0)
        r_a = jnp.where(attacked, -r_d, 0.0)
        info = {"loss": w**2 / 2, "malicious": malicious, "diverged": ~jnp.isfinite(w)}
        return QuadraticFLState(w, state.round + 1), Step(r_d, r_a, info)

    def exact_values(self, xi, defender: Player, attacker: Player, discount):
        """(J_D, J_A), by the recursion over E w^2; the moments of the squashed moves by quadrature.

        An observation of zeros gives both players the same law in every round.
        """
        own = draws(defender, jnp.zeros((1,), jnp.float32), _NODES)
        theirs = draws(attacker, jnp.zeros((1,), jnp.float32), _NODES)
        alpha = (1 + own.action[:, 0]) / 2
        scale = xi.max_scale * (1 + theirs.action[:, 0]) / 2
        scale = jnp.where(xi.turns_scale > 0, scale, xi.scale)
        alpha = (own.weights @ alpha, own.weights @ alpha**2)
        scale = (theirs.weights @ scale, theirs.weights @ scale**2)
        return second_moments(xi, alpha, scale, self.noise, self.horizon, discount)

    def episodes(self, xi, defender: Player, attacker: Player, config: MetaConfig):
        """Not enumerated: raises ValueError."""
        raise ValueError("quadratic FL's episodes are not enumerated; take objective='exact'")

    def best_response(self, xi, defender: Player, attacker: Player, discount) -> Player:
        """The attacker whose mean is best at its own deviation."""

        def payoff(mean):
            player = constant_mean(attacker, mean[None])
            return self.exact_values(xi, defender, player, discount)[1]

        return constant_mean(attacker, newton_maximum(payoff, -3.0, 3.0)[None])


def second_moments(xi: QuadraticFLType, alpha, scale, noise, horizon: int, discount):
    """(J_D, J_A) from the first two moments of alpha and of scale; JAX or NumPy numbers.

    Args:
        xi: the type.
        alpha: (E alpha, E alpha^2).
        scale: (E scale, E scale^2).
        noise: sigma^2.
        horizon: H.
        discount: gamma.
    """
    kept = 1 - _SHARE
    c = kept - _SHARE * scale[0]
    c_squared = kept**2 - 2 * kept * _SHARE * scale[0] + _SHARE**2 * scale[1]
    cost = xi.cost * (scale[1] - 2 * xi.usual * scale[0] + xi.usual**2)
    j_d = j_a = 0.0
    w_squared, power, p = 1.0, 1.0, xi.participation
    for _ in range(horizon):
        clean = w_squared * (1 - 2 * alpha[0] + alpha[1]) + alpha[1] * noise / _NUM_CLIENTS
        attacked = w_squared * (1 - 2 * alpha[0] * c + alpha[1] * c_squared)
        honest = _NUM_CLIENTS - _NUM_MALICIOUS
        attacked = attacked + alpha[1] * c_squared * noise / honest
        j_d = j_d + power * ((p - 1) * clean + p * (cost - attacked))
        j_a = j_a + power * p * (attacked - cost)
        w_squared = (1 - p) * clean + p * attacked
        power = power * discount
    return j_d, j_a


def quadratic_fl(
    participation: tuple[float, float] = (0.5, 1.0),
    horizon: int = 2,
    probabilities: tuple[float, ...] = (),
) -> QuadraticFLGame:
    """Three types: none; IPM of scale 5 (neither adaptive); IPM whose scale in (0, 3) adapts.

    The adaptive one pays 0.2 (scale - 1)^2. sigma^2 = 8, large, so that the best step isn't 1.

    Args:
        participation: the chance that a round samples malicious clients, for the two attackers;
            at 1 the game is strictly competitive throughout.
        horizon: H.
        probabilities: the prior Q; uniform by default.

    Raises:
        ConfigError: for a participation outside [0, 1].
    """
    if not all(0 <= p <= 1 for p in participation):
        raise ConfigError(f"participation = {participation!r}: each in [0, 1]")
    rows = [
        dict(participation=0.0, scale=0.0, turns_scale=0.0, cost=0.0),
        dict(participation=participation[0], scale=5.0, turns_scale=0.0, cost=0.0),
        dict(participation=participation[1], scale=1.0, turns_scale=1.0, cost=0.2),
    ]
    types = [
        QuadraticFLType(
            jnp.int32(0),
            **{k: jnp.float32(v) for k, v in {**row, "max_scale": 3.0, "usual": 1.0}.items()},
        )
        for row in rows
    ]
    table = type_table(types, ("none", "ipm", "adaptive ipm"), (False, False, True), probabilities)
    return QuadraticFLGame(table, jnp.float32(8.0), horizon=horizon)


@dataclasses.dataclass(frozen=True)
class QuadraticFLAnswer:
    """The best constant steps of a quadratic FL game, float64.

    Attributes:
        alphas: K steps, each best for one type (against its best response, where it adapts).
        values: J_D of these.
        alpha: the step that is best for the prior: the Bayesian Stackelberg equilibrium.
        value: E_Q J_D of it.
        scales: K, the attackers' scales at their type's step; fixed ones as they are.
        scale: the adaptive attackers' best response to ``alpha``, K numbers likewise.
    """

    alphas: tuple[float, ...]
    values: tuple[float, ...]
    alpha: float
    value: float
    scales: tuple[float, ...]
    scale: tuple[float, ...]


def quadratic_fl_answer(
    game: QuadraticFLGame, discount: float = 1.0, std_D: float = 0.0, std_A: float = 0.0
) -> QuadraticFLAnswer:
    """Solves the game by nested scalar optimisation.

    Args:
        game: the game.
        discount: gamma.
        std_D: deviation of the defender's policy before the tanh; alphas are those of its mode.
        std_A: likewise of the attackers'.
    """
    k = len(game.prior)
    types = [jax.tree.map(lambda leaf, i=i: float(leaf[i]), game.prior.types) for i in range(k)]
    q = np.asarray(game.prior.probabilities, np.float64)
    q = q / q.sum()
    noise = float(game.noise)

    @functools.cache
    def played(i: int, alpha: float) -> tuple[float, float]:
        """(J_D, the attacker's scale) at a step, for type i."""
        xi = types[i]
        step = _moments(alpha, 1.0, std_D)

        def values(scale):
            spread = _moments(scale, xi.max_scale, std_A) if xi.turns_scale else (scale, scale**2)
            return second_moments(xi, step, spread, noise, game.horizon, discount)

        scale = xi.scale
        if xi.turns_scale:
            scale = _maximum(lambda s: values(s)[1], xi.max_scale)
        return values(scale)[0], scale

    alphas = tuple(_maximum(lambda x, i=i: played(i, x)[0], 1.0) for i in range(k))
    alpha = _maximum(lambda x: float(sum(q[i] * played(i, x)[0] for i in range(k))), 1.0)
    return QuadraticFLAnswer(
        alphas=alphas,
        values=tuple(played(i, x)[0] for i, x in enumerate(alphas)),
        alpha=alpha,
        value=float(sum(q[i] * played(i, alpha)[0] for i in range(k))),
        scales=tuple(played(i, x)[1] for i, x in enumerate(alphas)),
        scale=tuple(played(i, alpha)[1] for i in range(k)),
    )


def _moments(mode: float, top: float, std: float) -> tuple[float, float]:
    """First two moments of ``top (1 + tanh(u)) / 2``, u Gaussian, with a given mode in (0, top)."""
    if std == 0:
        return mode, mode**2
    z, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    weights = weights / weights.sum()
    x = top * (1 + np.tanh(np.arctanh(2 * mode / top - 1) + std * z)) / 2
    return float(weights @ x), float(weights @ x**2)


def _maximum(fun, top: float) -> float:
    """Where a function with one maximum on (0, top) has it."""
    found = minimize_scalar(
        lambda x: -fun(float(x)), bounds=(0.0, top), method="bounded", options={"xatol": 1e-10}
    )
    return float(found.x)
