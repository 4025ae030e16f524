"""Exact values of the closed-form games: of two policies, and of the meta objectives.

No sampling: finite games by recursion and enumeration, the others in closed form or by quadrature.
Everything is differentiable in both players' parameters, so ``jax.grad`` gives exact gradients.
"""

import functools
import itertools
import math
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player, Trajectory
from metasg_jax.learning.estimators import policy_gradient
from metasg_jax.types import Game

MAX_BATCHES = 200_000


class ExactGame(Game, Protocol):
    """A game whose values are known; every game of this package but the FL game."""

    def exact_values(
        self, xi: Any, defender: Player, attacker: Player, discount
    ) -> tuple[jax.Array, jax.Array]:
        """(J_D, J_A)."""
        ...

    def episodes(
        self, xi: Any, defender: Player, attacker: Player, config: MetaConfig
    ) -> tuple[Trajectory, jax.Array]:
        """All episodes, leading axis T, and their probabilities f32[T] or quadrature weights."""
        ...

    def best_response(self, xi: Any, defender: Player, attacker: Player, discount) -> Player:
        """The attacker that maximises J_A against a fixed defender."""
        ...


@jax.jit
def exact_values(
    game: ExactGame, xi, defender: Player, attacker: Player, discount
) -> tuple[jax.Array, jax.Array]:
    """(J_D, J_A), f32[] each, of two players as the learner samples them.

    ``J = E sum_t discount^(t-1) r_t``, t = 1 .. H, over both players' noise and the environment's.

    Args:
        game: a closed-form game.
        xi: the type.
        defender: the leader; greedy ones play their mode.
        attacker: the follower.
        discount: gamma in (0, 1].
    """
    return game.exact_values(xi, defender, attacker, discount)


@jax.jit
def best_response(game: ExactGame, xi, defender: Player, attacker: Player, discount=1.0) -> Player:
    """The attacker with parameters that maximise J_A against a fixed defender.

    Args:
        game: a closed-form game.
        xi: the type.
        defender: the leader, as it plays: adapted, where it adapts.
        attacker: whose policy is filled; what does not matter keeps its values.
        discount: gamma.
    """
    return game.best_response(xi, defender, attacker, discount)


@functools.partial(jax.jit, static_argnames=("objective", "max_batches"))
def exact_meta_values(
    game: ExactGame,
    xi,
    defender: Player,
    attacker: Player,
    config: MetaConfig,
    objective: Literal["sampled", "exact"] = "sampled",
    max_batches: int = MAX_BATCHES,
) -> tuple[jax.Array, jax.Array]:
    """(L_D, L_A): both players' values once the defender has adapted (section 4.2, errata 11, 14).

    - ``sampled``: ``E_batch J(theta + eta g(batch; theta), phi)``, g the learner's own estimate
      (:func:`~metasg_jax.learning.policy_gradient`, with the config's estimator and baseline) on a
      batch of N_b = num_groups x group_size episodes under (theta, phi); all batches are
      enumerated. A gradient in theta goes through the estimate and through the sampling law, one
      in phi through the law and the final play.
    - ``exact``: ``J(theta + eta grad_theta J_D(theta, phi), phi)``.

    With ``adapt_steps`` = l above 1 the step is repeated from where it led, each time on fresh
    episodes.

    Args:
        game: a closed-form game.
        xi: the type.
        defender: theta.
        attacker: phi.
        config: ``adapt_steps``, ``adapt_lr`` (eta), ``discount``; for ``sampled`` also the batch,
            the estimator and the baseline.
        objective: which V.
        max_batches: static; how many sequences of batches may be enumerated.

    Raises:
        ValueError: where there are more (with the count), and where a game or estimator can't be
            enumerated.
    """
    if objective == "exact":
        return _exact(game, xi, defender, attacker, config)
    if objective != "sampled":
        raise ValueError(f"objective = {objective!r}: one of sampled, exact")
    if getattr(config, "gradient", "score") != "score":
        raise ValueError(f"gradient = {config.gradient!r}: only 'score' is enumerated")
    return _sampled(game, xi, defender, attacker, config, max_batches)


def _exact(game, xi, defender, attacker, config):
    def objective(params):
        player = defender.replace(params=params)
        return game.exact_values(xi, player, attacker, config.discount)[0]

    params = defender.params
    for _ in range(config.adapt_steps):
        params = optax.tree.add_scale(params, config.adapt_lr, jax.grad(objective)(params))
    return game.exact_values(xi, defender.replace(params=params), attacker, config.discount)


def _sampled(game, xi, defender, attacker, config, max_batches):
    def values(params, steps):
        """f32[2], after so many more steps from ``params``."""
        player = defender.replace(params=params)
        if steps == 0:
            return jnp.stack(game.exact_values(xi, player, attacker, config.discount))
        trajectory, probability = game.episodes(xi, player, attacker, config)
        shape = (probability.shape[0], config.num_groups, config.group_size)
        count = count_batches(*shape) ** config.adapt_steps
        if count > max_batches:
            raise ValueError(
                f"{count} sequences of batches of {shape[1]} x {shape[2]} out of {shape[0]} "
                f"episodes: too many to enumerate (at most {max_batches})"
            )
        batches, log_orders = _batches(*shape)
        # a root of the orders to each factor: their number alone may be beyond float32
        root = np.exp(log_orders / (shape[1] * shape[2])).astype(probability.dtype)
        weights = (probability[batches] * root[:, None, None]).prod(axis=(1, 2))
        played = jax.tree.map(lambda leaf: leaf[batches], trajectory.defender)

        def adapted(batch):
            gradient = policy_gradient(defender.policy, params, batch, config)
            return values(optax.tree.add_scale(params, config.adapt_lr, gradient), steps - 1)

        return weights @ jax.vmap(adapted)(played)

    l_d, l_a = values(defender.params, config.adapt_steps)
    return l_d, l_a


def count_batches(episodes: int, num_groups: int, group_size: int) -> int:
    """How many batches differ in more than the order of groups and of episodes in them.

    Example:
        >>> count_batches(4, 1, 2), count_batches(4, 2, 2)
        (10, 55)
    """
    groups = math.comb(episodes + group_size - 1, group_size)
    return math.comb(groups + num_groups - 1, num_groups)


@functools.lru_cache(maxsize=16)
def _batches(episodes: int, num_groups: int, group_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(episodes of each batch i32[M, E, G], log of the number of orders it may come in f64[M]).

    The learner's estimates do not depend on the order, so one batch stands for all of its orders.
    """
    members, log_ways = _multisets(episodes, group_size)
    groups, log_orders = _multisets(len(members), num_groups)
    return members[groups], log_orders + log_ways[groups].sum(axis=1)


def _multisets(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Multisets of range(count), i32[M, size], and log of how many sequences sort to each."""
    sets = np.array(
        list(itertools.combinations_with_replacement(range(count), size)), dtype=np.int32
    )
    # size! over the factorials of the lengths of runs of equal entries, which are side by side
    run, log_repeats = np.ones(len(sets)), np.zeros(len(sets))
    for j in range(1, size):
        run = np.where(sets[:, j] == sets[:, j - 1], run + 1, 1.0)
        log_repeats += np.log(run)
    return sets, math.lgamma(size + 1) - log_repeats
