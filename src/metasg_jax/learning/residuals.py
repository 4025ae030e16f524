"""Residuals of the meta first-order Stackelberg equilibrium (Definition 4.1), with their errors.

Without constraints on the parameters, the maxima over the unit ball in Definition 4.1 are norms:

- ``||grad_theta E_Q L_D||``, the defender's headline: what existence (Theorem D.1) and convergence
  (Theorem D.7) are about;
- ``||grad_theta L_D(., xi)||`` for each type: diagnostics, which need not vanish together;
- ``||grad_phi L_A(., xi)||`` for each adaptive type: with the adaptation held fixed, as line 12 of
  Algorithm 2 has it, and in full, where phi also moves the episodes that the defender adapts to.

The gradients are draws of :func:`~metasg_jax.learning.sampled_gradients.sample_gradients`. The norm
of a mean of noisy gradients is biased up: at an equilibrium it is the noise, and shrinks with the
budget alone. The mean over pairs of *different* batches of the inner product of their gradients is
an unbiased estimate of the squared norm, and may be negative. Residuals without the score's term,
most of the noise, are shown too, as what they are (``fixed``).
"""

import dataclasses
import math
from typing import Any

import numpy as np

from metasg_jax.config import MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.learning.sampled_gradients import Draws, Gradients, combine

MIN_BATCHES = 4
_Z = 1.6449  # of a one-sided bound at 95 %


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
        """The estimate for the gradient times a positive ``factor``."""
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
