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

Most of that noise is the score of the episodes adapted on, a sum over all of their steps, in L_D as
in L_A. Residuals without it (``fixed``) are shown too, as what they are.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.game.rollout import Player, map_at_once
from metasg_jax.learning.debiased import log_law, replay
from metasg_jax.learning.estimators import discounted_return, score
from metasg_jax.learning.estimators.score import weighted_log_prob
from metasg_jax.numerics import largest_divisor
from metasg_jax.struct import Struct
from metasg_jax.types import Key

MIN_BATCHES = 4
_Z = 1.6449  # of a one-sided bound at 95 %


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
    """Of a function's two scalars, ravelled."""
    _, pull = jax.vjp(fun, params)
    one, zero = jnp.ones((), jnp.float32), jnp.zeros((), jnp.float32)
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


def estimate_norm(draws: Draws) -> NormEstimate:
    """The norm of the expectation of B independent, identically distributed gradients.

    The squared norm is the mean over pairs of batches of the inner product of their gradients; two
    halves are B = 2. Each gain is compared with its mean over the batches that are not in the pair:
    compared with that over all others, the two gradients of a pair would depend on each other.

    The error is the jackknife's over batches, which, for a statistic of pairs, counts the part that
    is due to pairs alone twice (Efron and Stein, 1981): that excess is taken off.

    Args:
        draws: B of them, at least 4.
    """
    gram = _gram(draws)
    b = len(gram)
    total, trace = gram.sum(), np.trace(gram)
    squared = (total - trace) / (b * (b - 1))
    # gram[i, j] = squared + part_i + part_j + rest[i, j], for i != j
    row = (gram.sum(axis=1) - np.diag(gram)) / (b - 1)
    part = (row - squared) * (b - 1) / (b - 2)
    rest = gram - squared - part[:, None] - part[None, :]
    np.fill_diagonal(rest, 0.0)
    pairs = (rest**2).sum() / (b * (b - 3))
    pure = _pure_variance(math.sqrt(pairs), b)
    jackknife = 4 * (part**2).sum() / (b * (b - 1))
    variance = max(jackknife - 4 * pairs / (b * (b - 2)) + pure, pure)
    return NormEstimate(
        squared=float(squared),
        squared_error=math.sqrt(variance),
        noise=math.sqrt(pairs),
        batches=b,
        plain=float(np.linalg.norm(mean_gradient(draws))),
    )


def mean_gradient(draws: Draws) -> np.ndarray:
    """f64[D]; each gain is compared with the mean of the other batches'."""
    gradient, score, gain = _float64(draws)
    b = len(gradient)
    baseline = (gain.sum(axis=0) - gain) / (b - 1)
    return gradient.mean(axis=0) - np.einsum("bm,bmd->d", baseline, score) / b


def _gram(draws: Draws) -> np.ndarray:
    """f64[B, B], inner products of gradients, baselines as :func:`estimate_norm` has them."""
    gradient, score, gain = _float64(draws)
    b = len(gradient)
    if b < MIN_BATCHES:
        raise ValueError(f"{b} draws: at least {MIN_BATCHES}")
    # baseline[m][i, j]: the mean of the gains but those of i and j
    baselines = [(g.sum() - g[:, None] - g[None, :]) / (b - 2) for g in gain.T]
    gram = gradient @ gradient.T
    for m, own in enumerate(baselines):
        cross = own * (score[:, m] @ gradient.T)
        gram -= cross + cross.T
        for n, other in enumerate(baselines):
            gram += own * other * (score[:, m] @ score[:, n].T)
    return gram


def _float64(draws: Draws) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    fields = draws.gradient, draws.score, draws.gain
    gradient, score, gain = (np.asarray(a, np.float64) for a in fields)
    return gradient, score, gain


def _pure_variance(noise: float, b: int) -> float:
    return 2 * noise**2 / (b * (b - 1))


@dataclasses.dataclass(frozen=True)
class Residuals:
    """The residuals of Definition 4.1 at one point, and what they are without the score's term.

    Attributes:
        defender: of E_Q L_D.
        defender_fixed: the same with the law of the adaptation's episodes held fixed. Far less
            noisy, but not the gradient of anything: a diagnostic.
        types: of L_D for each of the K types.
        types_fixed: likewise with that law held fixed.
        attacker: of L_A for each type, None where it is not adaptive.
        attacker_fixed: of J_A with the adaptation held fixed, likewise.
    """

    defender: NormEstimate
    defender_fixed: NormEstimate
    types: tuple[NormEstimate, ...]
    types_fixed: tuple[NormEstimate, ...]
    attacker: tuple[NormEstimate | None, ...]
    attacker_fixed: tuple[NormEstimate | None, ...]


def residuals(
    gradients: list[Gradients], probabilities: Any, adaptive: tuple[bool, ...]
) -> Residuals:
    """Residuals from the gradients of all K types, B batches each.

    Args:
        gradients: of each type, from independent episodes.
        probabilities: [K], Q.
        adaptive: whether each type's attacker has parameters that respond.
    """
    responding = list(zip(gradients, adaptive, strict=True))
    return Residuals(
        defender=estimate_norm(combine(probabilities, [g.defender for g in gradients])),
        defender_fixed=estimate_norm(combine(probabilities, [g.defender_fixed for g in gradients])),
        types=tuple(estimate_norm(g.defender) for g in gradients),
        types_fixed=tuple(estimate_norm(g.defender_fixed) for g in gradients),
        attacker=tuple(estimate_norm(g.attacker) if a else None for g, a in responding),
        attacker_fixed=tuple(estimate_norm(g.attacker_fixed) if a else None for g, a in responding),
    )
