"""Residuals of the meta first-order Stackelberg equilibrium (Definition 4.1), with their errors.

Without constraints on the parameters, the maxima over the unit ball in Definition 4.1 are norms:

- ``||grad_theta E_Q L_D||``, the defender's headline: what existence (Theorem D.1) and convergence
  (Theorem D.7) are about;
- ``||grad_theta L_D(., xi)||`` for each type: diagnostics, which need not vanish together;
- ``||grad_phi L_A(., xi)||`` for each adaptive type: with the adaptation held fixed, as line 12 of
  Algorithm 2 has it, and in full, where phi also moves the episodes that the defender adapts to.

L_D and L_A are the objectives of adaptation by a sampled gradient (:mod:`.debiased`).

The norm of a mean of noisy gradients is biased up: at an equilibrium it is the noise, and shrinks
with the budget alone. The mean over pairs of *different* batches of the inner product of their
gradients is an unbiased estimate of the squared norm, and may be negative.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.divisors import largest_divisor
from metasg_jax.errors import ConfigError
from metasg_jax.game.rollout import Played, Player, map_at_once
from metasg_jax.learning.debiased import replay
from metasg_jax.learning.estimators import advantages, discounted_return, log_probs, score
from metasg_jax.learning.estimators.score import weighted_log_prob
from metasg_jax.struct import Struct
from metasg_jax.types import Key

MIN_BATCHES = 4
_Z = 1.6449  # of a one-sided bound at 95 %


class Gradients(Struct):
    """Unbiased estimates of one type's gradients from B independent batches, ravelled.

    Attributes:
        defender: f32[B, D], of grad_theta L_D.
        attacker_fixed: f32[B, P], of grad_phi of J_A at the adapted policy, that held fixed.
        attacker_full: f32[B, P], of grad_phi L_A.
        return_D: f32[B], mean discounted return of the adapted policy: an estimate of L_D.
        return_A: f32[B], of L_A.
        reward_D: f32[B, R], of all rounds of the adaptation and of the adapted policy.
        reward_A: f32[B, R].
        malicious: bool[B, R], whether a malicious client was sampled in the round; true in games
            that do not say.
    """

    defender: jax.Array
    attacker_fixed: jax.Array
    attacker_full: jax.Array
    return_D: jax.Array
    return_A: jax.Array
    reward_D: jax.Array
    reward_A: jax.Array
    malicious: jax.Array


def check_residuals(config: MetaConfig, num_batches: int) -> None:
    """Raises ConfigError where residuals can't be estimated under these settings."""
    if num_batches < MIN_BATCHES:
        raise ConfigError(
            f"batches = {num_batches}: at least {MIN_BATCHES}, for an error of pairs of batches"
        )
    if config.gradient != "score":
        raise ConfigError(
            f"gradient = {config.gradient!r}: residuals differentiate the adaptation of the "
            "paper, by the score function; take 'score'"
        )


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
    policy (lines 18-21 of Algorithm 2). The baseline of the score term is what the policy before
    the adaptation earns under the random numbers of that last play: independent of what was adapted
    on, so nothing is biased, and so close to the adapted policy's return that little noise is left.

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
            return _value(defender.policy, end, final.defender, final_config), log_q

        def follow(phi):
            log_q = jax.vmap(lambda b: log_probs(attacker.policy, phi, b))(batches.attacker).sum()
            return _value(attacker.policy, phi, final.attacker, final_config), log_q

        value_d, score_d = _both_gradients(lead, defender.params)
        value_a, score_a = _both_gradients(follow, attacker.params)
        malicious = played.info.get("malicious", jnp.ones_like(played.defender.reward))
        return Gradients(
            defender=value_d + gains[0] * score_d,
            attacker_fixed=value_a,
            attacker_full=value_a + gains[1] * score_a,
            return_D=returns[0][last],
            return_A=returns[1][last],
            # without the last play, whose rounds are almost those of the one before
            reward_D=played.defender.reward[:-1].reshape(-1),
            reward_A=played.attacker.reward[:-1].reshape(-1),
            malicious=malicious[:-1].reshape(-1) > 0,
        )

    return map_at_once(one, count, _batches_at_once(config, count))


def _value(policy, params, final: Played, config: MetaConfig) -> jax.Array:
    weights = advantages(final.reward, config.discount, config)
    return weighted_log_prob(policy, params, final, weights)


def _both_gradients(fun, params) -> tuple[jax.Array, jax.Array]:
    """Of a function's two scalars, ravelled."""
    _, pull = jax.vjp(fun, params)
    one, zero = jnp.ones(()), jnp.zeros(())
    flat = [jax.flatten_util.ravel_pytree(pull(c)[0])[0] for c in ((one, zero), (zero, one))]
    return flat[0], flat[1]


def _batches_at_once(config: MetaConfig, count: int) -> int:
    size = config.group_size * config.num_groups
    return largest_divisor(count, max(1, config.rollouts_at_once // size))


@dataclasses.dataclass(frozen=True)
class NormEstimate:
    """The norm of an expected gradient, estimated from B independent draws of it.

    Attributes:
        squared: unbiased estimate of the squared norm; may be negative.
        squared_error: its standard error.
        noise: Frobenius norm of the covariance of one draw.
        batches: B.
        plain: norm of the mean of the draws: biased up by the noise.
    """

    squared: float
    squared_error: float
    noise: float
    batches: int
    plain: float

    @property
    def resolved(self) -> bool:
        """Whether the squared norm is at least twice its standard error, and above 0."""
        return self.squared > 0 and self.squared_error <= self.squared / 2

    @property
    def norm(self) -> float:
        """Signed root of the squared norm."""
        return math.copysign(math.sqrt(abs(self.squared)), self.squared)

    @property
    def error(self) -> float:
        """Standard error of :attr:`norm` by the delta method; of use where it is resolved."""
        return self.squared_error / (2 * abs(self.norm)) if self.squared else math.inf

    @property
    def bound(self) -> float:
        """The norm's upper 95 % bound.

        The largest squared norm q with ``q - squared <= 1.64 se(q)``. The error there is larger
        than the one estimated here, because noise along the gradient counts in proportion to it:
        ``se(q)^2 = 4 q noise / B + 2 noise^2 / (B (B - 1))``, noise bounding that along any
        direction.
        """
        along = _Z**2 * 2 * self.noise / self.batches
        apart = _Z**2 * _pure_variance(self.noise, self.batches)
        u = max(self.squared, 0.0)
        return math.sqrt(u + along + math.sqrt(along**2 + 2 * along * u + apart))

    def batches_needed(self, norm: float) -> float:
        """About how many draws would resolve a norm, by the noise seen in these."""
        # 2 se(norm^2) = norm^2, with se(q) as in bound
        return self.noise / (0.5 * (math.sqrt(4.5) - 2) * norm**2) if norm > 0 else math.inf

    def scaled(self, factor: float) -> "NormEstimate":
        """Of the gradient times a positive number."""
        return NormEstimate(
            squared=self.squared * factor**2,
            squared_error=self.squared_error * factor**2,
            noise=self.noise * factor**2,
            batches=self.batches,
            plain=self.plain * factor,
        )


def estimate_norm(draws: np.ndarray) -> NormEstimate:
    """The norm of the expectation of B independent, identically distributed vectors.

    The squared norm is the mean over pairs of the Gram matrix's off-diagonal entries; two halves
    are B = 2. Its error is the jackknife's over draws, which, for a statistic of pairs, counts the
    part that is due to pairs alone twice (Efron and Stein, 1981): that excess is taken off.

    Args:
        draws: [B, D], B at least 4.
    """
    draws = np.asarray(draws, np.float64)
    b = len(draws)
    if b < MIN_BATCHES:
        raise ValueError(f"{b} draws: at least {MIN_BATCHES}")
    gram = draws @ draws.T
    total, trace = gram.sum(), np.trace(gram)
    squared = (total - trace) / (b * (b - 1))
    # gram[i, j] = squared + part_i + part_j + rest[i, j], for i != j
    row = (gram.sum(axis=1) - np.diag(gram)) / (b - 1)
    part = (row - squared) * (b - 1) / (b - 2)
    rest = gram - squared - part[:, None] - part[None, :]
    np.fill_diagonal(rest, 0.0)
    pairs = (rest**2).sum() / (b * (b - 3))
    pure = 2 * pairs / (b * (b - 1))
    jackknife = 4 * (part**2).sum() / (b * (b - 1))
    variance = max(jackknife - 4 * pairs / (b * (b - 2)) + pure, pure)
    return NormEstimate(
        squared=float(squared),
        squared_error=math.sqrt(variance),
        noise=math.sqrt(pairs),
        batches=b,
        plain=math.sqrt(max(total, 0.0)) / b,
    )


def _pure_variance(noise: float, b: int) -> float:
    return 2 * noise**2 / (b * (b - 1))


@dataclasses.dataclass(frozen=True)
class Residuals:
    """The residuals of Definition 4.1 at one point.

    Attributes:
        defender: of E_Q L_D.
        types: of L_D for each of the K types.
        attacker_fixed: for each type, None where it is not adaptive.
        attacker_full: likewise.
    """

    defender: NormEstimate
    types: tuple[NormEstimate, ...]
    attacker_fixed: tuple[NormEstimate | None, ...]
    attacker_full: tuple[NormEstimate | None, ...]


def residuals(
    gradients: list[Gradients], probabilities: Any, adaptive: tuple[bool, ...]
) -> Residuals:
    """Residuals from the gradients of all K types, B batches each.

    Args:
        gradients: of each type.
        probabilities: [K], Q.
        adaptive: whether each type's attacker has parameters that respond.
    """
    return Residuals(
        defender=estimate_norm(average(gradients, probabilities)),
        types=tuple(estimate_norm(np.asarray(g.defender)) for g in gradients),
        attacker_fixed=tuple(
            estimate_norm(np.asarray(g.attacker_fixed)) if responds else None
            for g, responds in zip(gradients, adaptive, strict=True)
        ),
        attacker_full=tuple(
            estimate_norm(np.asarray(g.attacker_full)) if responds else None
            for g, responds in zip(gradients, adaptive, strict=True)
        ),
    )


def average(gradients: list[Gradients], probabilities: Any) -> np.ndarray:
    """f64[B, D]: draws of grad_theta E_Q L_D; batches of different types are independent."""
    stacked = np.stack([np.asarray(g.defender, np.float64) for g in gradients])
    return np.tensordot(np.asarray(probabilities, np.float64), stacked, axes=1)
