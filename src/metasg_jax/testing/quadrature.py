"""Expectations over the noise of tanh-Gaussian players, by Gauss-Hermite nodes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Played, Player, Trajectory
from metasg_jax.policies import Fixed, Gaussian
from metasg_jax.struct import Struct

_BOUND = 1 - 1e-6  # arctanh of it is 7.3: far outside of what the games' solutions and noise need


class Draws(Struct):
    """What a player may do in a round, and how likely it is; n nodes.

    Attributes:
        obs: f32[O], normalised: what the policy saw.
        raw: f32[n, A], what ``log_prob`` takes.
        action: f32[n, A] in [-1, 1].
        stretched: f32[n, A], arctanh of the action.
        weights: f32[n], of sum 1.
    """

    obs: jax.Array
    raw: jax.Array
    action: jax.Array
    stretched: jax.Array
    weights: jax.Array


def stretch(action: jax.Array) -> jax.Array:
    """Arctanh of an action in [-1, 1], first cut to +-(1 - 1e-6): under a tanh-Gaussian, Gaussian.

    Games played in this coordinate have Gaussian moves, and so values in closed form.
    """
    return jnp.arctanh(jnp.clip(action, -_BOUND, _BOUND))


def moments(player: Player, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean f32[A] and standard deviation f32[A] of the stretched action given f32[O], as given.

    The deviation is 0 where the player is greedy or its policy :class:`~metasg_jax.policies.Fixed`.

    Raises:
        ValueError: for other policies: their stretched actions aren't Gaussian.
    """
    obs = player.normalizer(obs)
    if isinstance(player.policy, Gaussian) and not player.greedy:
        mean, log_std = player.policy.moments(player.params, obs)
        return mean, jnp.exp(log_std)
    if not isinstance(player.policy, Gaussian | Fixed):
        name = type(player.policy).__name__
        raise ValueError(f"policy {name}: exact values need a Gaussian or a Fixed one")
    mean = stretch(player.policy.mode(player.params, obs))
    return mean, jnp.zeros_like(mean)


def draws(player: Player, obs: jax.Array, nodes: int) -> Draws:
    """Nodes of a player's action given an observation f32[O]: ``nodes`` per dimension.

    Exact for polynomials of the stretched action of degree 2 nodes - 1 in each dimension. One node
    where the player does not draw. Differentiable in the player's parameters.
    """
    mean, std = moments(player, obs)
    if player.greedy or isinstance(player.policy, Fixed):
        nodes = 1
    z, weights = (jnp.asarray(a, mean.dtype) for a in _grid(nodes, mean.shape[0]))
    stretched = mean[None] + std[None] * z
    return Draws(player.normalizer(obs), stretched, jnp.tanh(stretched), stretched, weights)


def one_round_episodes(
    defender: Player, attacker: Player, payoff, nodes: int, config: MetaConfig
) -> tuple[Trajectory, jax.Array]:
    """The episodes of a game of one round without chance, at the nodes of both players' noise.

    A sum over them with their weights is the expectation of what is a polynomial of degree
    2 nodes - 1 in each dimension of the noise, and close to it for other smooth functions.

    Args:
        defender: sees f32[1] zeros.
        attacker: likewise.
        payoff: (stretched u f32[A], stretched v f32[A]) -> (r_D, r_A).
        nodes: static, per dimension.
        config: the batch that the episodes are for.

    Returns:
        (trajectory with leading axis T = nodes^(A_D + A_A), weights f32[T] of sum 1).

    Raises:
        ValueError: where the adapted value is no such polynomial: with a deviation that is learned,
            more than one step, or advantages divided by their deviation.
    """
    if getattr(defender.policy, "learn_std", False):
        raise ValueError("learn_std = True: sampled adaptation is integrated with a fixed std only")
    if config.adapt_steps > 1:
        raise ValueError(f"adapt_steps = {config.adapt_steps}: at most 1 by quadrature")
    if config.normalize_advantages:
        raise ValueError("normalize_advantages = True: not integrated by quadrature")
    obs = jnp.zeros((1,), jnp.float32)
    own, theirs = draws(defender, obs, nodes), draws(attacker, obs, nodes)
    count_d, count_a = own.weights.shape[0], theirs.weights.shape[0]
    i, j = np.divmod(np.arange(count_d * count_a), count_a)
    r_d, r_a = jax.vmap(payoff)(own.stretched[i], theirs.stretched[j])

    def side(which, index, reward):
        raw, action = which.raw[index][:, None], which.action[index][:, None]
        seen = jnp.broadcast_to(which.obs[None, None], (len(index), 1, 1))
        return Played(seen, jnp.zeros_like(seen), raw, action, reward[:, None])

    info = {"loss": -r_d[:, None], "diverged": jnp.zeros((len(i), 1), bool)}
    trajectory = Trajectory(side(own, i, r_d), side(theirs, j, r_a), info)
    return trajectory, own.weights[i] * theirs.weights[j]


def newton_maximum(fun, low: float, high: float, grid: int = 401, steps: int = 8) -> jax.Array:
    """Where a smooth function of a scalar is largest on [low, high]: f32[].

    The best of ``grid`` points, improved by Newton's method within a cell to either side. The
    function's maxima must be further apart than two cells.
    """
    points = jnp.linspace(low, high, grid, dtype=jnp.float32)
    start = points[jnp.argmax(jax.vmap(fun)(points))]
    width = (high - low) / (grid - 1)
    slope = jax.grad(fun)
    curvature = jax.grad(slope)

    def step(x, _):
        bend = curvature(x)
        move = jnp.where(bend < 0, -slope(x) / jnp.where(bend < 0, bend, -1.0), 0.0)
        x = jnp.clip(x + move, start - width, start + width)
        return jnp.clip(x, low, high), None

    return jax.lax.scan(step, start, None, length=steps)[0]


def constant_mean(player: Player, mean: jax.Array, std: jax.Array | None = None) -> Player:
    """A Gaussian player whose mean is f32[A] whatever it sees; its deviation only if given.

    The last layer's kernel becomes 0, its bias the mean.
    """
    policy = player.policy
    if not isinstance(policy, Gaussian):
        raise ValueError(f"policy {type(policy).__name__}: only a Gaussian has a mean to set")
    last = f"Dense_{len(policy.hidden)}"
    layer = player.params["mean"][last]
    layer = {"kernel": jnp.zeros_like(layer["kernel"]), "bias": jnp.asarray(mean)}
    params = player.params | {"mean": player.params["mean"] | {last: layer}}
    if std is not None and policy.learn_std:
        params = params | {"log_std": jnp.broadcast_to(jnp.log(std), layer["bias"].shape)}
    return player.replace(params=params)


@functools.cache
def _grid(nodes: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal nodes f64[nodes^dimension, dimension] and their weights."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()
    points = np.array(list(itertools.product(z, repeat=dimension)))
    weights = np.array([np.prod(c) for c in itertools.product(w, repeat=dimension)])
    return points, weights
