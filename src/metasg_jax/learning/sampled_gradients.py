"""Sampled gradients of L_D and L_A, the objectives of the meta first-order equilibrium.

L_D and L_A are the objectives of adaptation by a sampled gradient (:mod:`.debiased`): batches of
episodes that the policy adapts on, and one of the adapted policy. Each batch gives an independent,
unbiased draw of the gradients in theta and phi, against one type. Norms are estimated from draws in
:mod:`.residuals`, constants of the theory in :mod:`.assumptions`.

Most of a draw's noise is the score of the episodes adapted on, a sum over all of their steps, in
L_D as in L_A. So draws keep it apart, and come without it (``fixed``), too.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player, map_at_once
from metasg_jax.learning.debiased import log_law, replay
from metasg_jax.learning.estimators import discounted_return, score
from metasg_jax.learning.estimators.score import weighted_log_prob
from metasg_jax.numerics import largest_divisor
from metasg_jax.struct import Struct
from metasg_jax.types import Key


class Draws(Struct):
    """B independent, unbiased estimates of a gradient, ravelled; and what can quieten them.

    The score's part of a gradient is a gain times the score. Any baseline may be taken from the
    gain that is independent of the batch, for a score has mean 0.

    Attributes:
        gradient: f32[B, D].
        score: f32[B, M, D], of M terms.
        gain: f32[B, M], the factors that these have in the gradient.
    """

    gradient: Any
    score: Any
    gain: Any


def draws_of(gradient: Any) -> Draws:
    """Draws [B, D] without a score in them."""
    b, d = gradient.shape
    return Draws(gradient, np.zeros((b, 0, d)), np.zeros((b, 0)))


def combine(weights: Any, draws: list[Draws]) -> Draws:
    """Draws of ``sum_k weights_k gradient_k``; those of different k may depend on each other."""
    weights = [float(w) for w in weights]
    pairs = list(zip(weights, draws, strict=True))
    return Draws(
        gradient=sum(w * np.asarray(d.gradient, np.float64) for w, d in pairs),
        score=np.concatenate([w * np.asarray(d.score, np.float64) for w, d in pairs], axis=1),
        gain=np.concatenate([np.asarray(d.gain, np.float64) for _, d in pairs], axis=1),
    )


class Gradients(Struct):
    """Estimates of one type's gradients from B independent batches.

    Attributes:
        defender: of grad_theta L_D.
        defender_fixed: without the score's term: the law of the episodes of the adaptation is held
            fixed.
        attacker: of grad_phi L_A.
        attacker_fixed: of grad_phi of J_A at the adapted policy, that held fixed.
        return_D: f32[B], mean discounted return of the adapted policy: an estimate of L_D.
        return_A: f32[B], of L_A.
        reward_D: f32[B, R], of all rounds of the adaptation and of the adapted policy.
        reward_A: f32[B, R].
        malicious: bool[B, R], whether a malicious client was sampled in the round; true in games
            that do not say.
    """

    defender: Draws
    defender_fixed: Draws
    attacker: Draws
    attacker_fixed: Draws
    return_D: jax.Array
    return_A: jax.Array
    reward_D: jax.Array
    reward_A: jax.Array
    malicious: jax.Array


def unbiased(config: MetaConfig) -> MetaConfig:
    """The settings with an unbiased estimate of grad J: of the last batch, not of the adaptation.

    The adaptation is part of the objective, whatever it follows; what is differentiated must be J.
    """
    baseline = config.baseline
    if baseline == "batch":
        baseline = "leave_one_out" if config.group_size * config.num_groups > 1 else "none"
    return config.replace(estimator="return_to_go", baseline=baseline, normalize_advantages=False)


def rollouts_per_batch(config: MetaConfig) -> int:
    """Episodes that a batch of :func:`sample_gradients` plays against a type."""
    return (config.adapt_steps + 2) * config.group_size * config.num_groups


@functools.partial(jax.jit, static_argnames="count")
def sample_gradients(
    key: Key,
    game,
    index: jax.Array,
    defender: Player,
    attacker: Player,
    first: jax.Array,
    config: MetaConfig,
    count: int,
) -> Gradients:
    """Gradients of L_D and L_A against one type, from ``count`` independent batches.

    A batch adapts the defender on ``config.adapt_steps`` batches of episodes and plays the adapted
    policy (lines 18-21 of Algorithm 2). The gain in the score's term is what the adapted policy
    earns more than the one before, under the same random numbers: the latter's return is
    independent of what was adapted on, so nothing is biased, and most noise is common to both.

    Args:
        key: consumed; batch i draws from ``fold_in(key, i)``, so that the same key at other
            parameters gives common random numbers.
        game: any game with a prior.
        index: i32[], of the type; must not be batched.
        defender: theta, not greedy.
        attacker: phi of that type, not greedy.
        first: i32[], number of the first batch.
        config: of the learner. ``rollouts_at_once`` bounds the episodes side by side; with 0 the
            batches still come one after another.
        count: static.
    """
    xi = game.prior[index]
    leads = jnp.ones((), bool)
    final_config = unbiased(config)
    last = config.adapt_steps

    def one(i):
        key_batch = jax.random.fold_in(key, first + i)

        # a scan over all plays, so that episodes compile once: l to adapt on, then the adapted
        # policy and the one before the adaptation, with the same random numbers
        def play(params, j):
            params = jax.tree.map(lambda a, b: jnp.where(j > last, b, a), params, defender.params)
            key_play = jax.random.fold_in(key_batch, jnp.minimum(j, last))
            player = defender.replace(params=params)
            gradient, _, played = score(key_play, game, xi, player, attacker, leads, config)
            return optax.tree.add_scale(params, config.adapt_lr, gradient), played

        _, played = jax.lax.scan(play, defender.params, jnp.arange(last + 2))
        batches = jax.tree.map(lambda leaf: leaf[:last], played)
        final = jax.tree.map(lambda leaf: leaf[last], played)
        returns = [
            discounted_return(side.reward, config.discount).mean(axis=(-2, -1))
            for side in (played.defender, played.attacker)
        ]
        gains = [r[last] - r[last + 1] for r in returns]

        def lead(theta):
            end, log_q = replay(defender.policy, theta, batches.defender, config, curvature=False)
            return weighted_log_prob(defender.policy, end, final.defender, final_config), log_q

        def follow(phi):
            log_q = log_law(attacker.policy, phi, batches.attacker)
            return weighted_log_prob(attacker.policy, phi, final.attacker, final_config), log_q

        malicious = played.info.get("malicious", jnp.ones_like(played.defender.reward))
        return (
            Parts(*_both_gradients(lead, defender.params), gains[0]),
            Parts(*_both_gradients(follow, attacker.params), gains[1]),
            (returns[0][last], returns[1][last]),
            # without the last play, whose rounds are almost those of the one before
            (
                played.defender.reward[:-1].reshape(-1),
                played.attacker.reward[:-1].reshape(-1),
                malicious[:-1].reshape(-1) > 0,
            ),
        )

    d, a, returns, rounds = map_at_once(one, count, _batches_at_once(config, count))
    return Gradients(d.full, d.fixed, a.full, a.fixed, *returns, *rounds)


class Parts(NamedTuple):
    """A gradient's: its value's part f32[B, D], the score f32[B, D] and the gain f32[B]."""

    value: jax.Array
    score: jax.Array
    gain: jax.Array

    @property
    def full(self) -> Draws:
        """With the score."""
        score = self.gain[:, None] * self.score
        return Draws(self.value + score, self.score[:, None], self.gain[:, None])

    @property
    def fixed(self) -> Draws:
        """Without it."""
        b, d = self.value.shape
        return Draws(self.value, jnp.zeros((b, 0, d), jnp.float32), jnp.zeros((b, 0), jnp.float32))


def _both_gradients(fun, params) -> tuple[jax.Array, jax.Array]:
    """Gradients f32[P] of the two scalars that ``fun`` returns, parameters raveled."""
    _, pull = jax.vjp(fun, params)
    one, zero = jnp.ones((), jnp.float32), jnp.zeros((), jnp.float32)
    flat = [jax.flatten_util.ravel_pytree(pull(c)[0])[0] for c in ((one, zero), (zero, one))]
    return flat[0], flat[1]


def _batches_at_once(config: MetaConfig, count: int) -> int:
    size = config.group_size * config.num_groups
    return largest_divisor(count, max(1, config.rollouts_at_once // size))
