"""What the theory assumes of a game, measured: strict competitiveness, PL and smoothness.

Everything here reads draws of :func:`~metasg_jax.learning.sampled_gradients.sample_gradients`, on
the host. The constants are those of the points that were visited: a Lipschitz constant is at least
what two points show, a PL constant at most what one point shows.

The subscripts of Assumption D.2 are read as its use in the proof of Lemma D.4 needs them, the
printed ones give L22 and L21 the same role: L_ij bounds how the gradient of player i in its own
parameters (1 the defender, 2 the attacker) moves with the parameters of player j.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from metasg_jax.config import MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.game.rollout import rollout
from metasg_jax.learning.residuals import NormEstimate, estimate_norm, mean_gradient
from metasg_jax.learning.sampled_gradients import Gradients, combine
from metasg_jax.learning.state import attacker_player, defender_player, init_state
from metasg_jax.types import Key, Params


@dataclasses.dataclass(frozen=True)
class Competition:
    """Least squares of ``r_D = c r_A + d`` over rounds; Assumption 4.3 wants it exact, with c < 0.

    Attributes:
        rounds: how many.
        c: slope, NaN where r_A does not vary.
        d: intercept.
        rms: root mean square of what the line leaves.
        unexplained: 1 - R^2, the line's share of the variance of r_D that is left; 0 where r_D does
            not vary.
    """

    rounds: int
    c: float
    d: float
    rms: float
    unexplained: float

    @property
    def slope_is_negative(self) -> bool:
        """Whether c < 0; not where it is undefined."""
        return self.c < 0


def fit_competition(reward_D: Any, reward_A: Any) -> Competition:
    """Fits the line to the rewards of rounds, arrays of any one shape; NaN without rounds."""
    r_d, r_a = (np.asarray(r, np.float64).ravel() for r in (reward_D, reward_A))
    if r_d.size == 0:
        return Competition(0, math.nan, math.nan, math.nan, math.nan)
    at_d, at_a = r_d.mean(), r_a.mean()
    c, left = math.nan, r_d - at_d
    if np.ptp(r_a) > 0:
        c = float((r_a - at_a) @ (r_d - at_d) / ((r_a - at_a) @ (r_a - at_a)))
        left = left - c * (r_a - at_a)
    rms, spread = float(np.sqrt((left**2).mean())), float(r_d.std())
    d = at_d - (0.0 if math.isnan(c) else c * at_a)
    return Competition(r_d.size, c, float(d), rms, (rms / spread) ** 2 if spread else 0.0)


def competition_by_presence(gradients: list[Gradients]) -> dict[str, Competition]:
    """The fits over the rounds of these draws: ``all``, ``with`` a malicious client, ``without``.

    Draws of several types are pooled.
    """
    r_d, r_a, malicious = (
        np.concatenate([np.asarray(getattr(g, name)).ravel() for g in gradients])
        for name in ("reward_D", "reward_A", "malicious")
    )
    rounds = {"all": np.ones_like(malicious), "with": malicious, "without": ~malicious}
    return {name: fit_competition(r_d[chosen], r_a[chosen]) for name, chosen in rounds.items()}


@dataclasses.dataclass(frozen=True)
class Walk:
    """Draws around one type's saved parameters, all with the same random numbers.

    Attributes:
        points: at P + 1 attackers, from the saved one uphill on L_A, the defender's as saved.
        distances: f64[P + 1], of these attackers from the saved one.
        moved: at the saved attacker, with the defender moved uphill on L_D.
        shift: how far.
    """

    points: tuple[Gradients, ...]
    distances: np.ndarray
    moved: Gradients
    shift: float


def walk(
    draw: Callable[[Params, Params, bool], Gradients],
    theta: Params,
    phi: Params,
    start: tuple[Gradients, Gradients],
    ascent: np.ndarray,
    points: int,
) -> Walk:
    """Walks ``points`` steps through the unit ball of Definition 4.1, to its border if straight.

    Directions come from draws of their own, so that what is measured at a point is independent of
    how it was reached.

    Args:
        draw: ``(theta, phi, measures) -> Gradients``; draws for directions and draws that measure,
            each time with the same random numbers.
        theta: of the defender.
        phi: of the attacker, as saved.
        start: draws at these two, for directions and to measure.
        ascent: f[D], where the defender is moved to, ravelled.
        points: P, at least 1.
    """
    flat, unravel = jax.flatten_util.ravel_pytree(phi)
    at = saved = np.asarray(flat, np.float64)
    directions, measured = start
    found, distances = [measured], [0.0]
    for p in range(points):
        step = mean_gradient(directions.attacker)
        at = at + step / max(float(np.linalg.norm(step)), 1e-30) / points
        there = unravel(jnp.asarray(at, flat.dtype))
        found.append(draw(theta, there, True))
        distances.append(float(np.linalg.norm(at - saved)))
        if p + 1 < points:
            directions = draw(theta, there, False)
    shift = 1 / points
    flat, unravel = jax.flatten_util.ravel_pytree(theta)
    to = np.asarray(flat, np.float64) + shift * ascent / max(float(np.linalg.norm(ascent)), 1e-30)
    moved = draw(unravel(jnp.asarray(to, flat.dtype)), phi, True)
    return Walk(tuple(found), np.array(distances), moved, shift)


@dataclasses.dataclass(frozen=True)
class PLBound:
    """An upper bound on mu of Assumption 4.4 for L_A (errata 15).

    Attributes:
        value: ``||grad L_A||^2 / (2 gap)``, the smallest over the points with a resolved gap; the
            gap is to the best value found, which is at most the maximum. Infinite where no gap is
            resolved: then nothing is known.
        error: its standard error; NaN where the squared norm is not resolved and its upper 95 %
            bound stands in for it.
    """

    value: float
    error: float


def pl_bound(walk: Walk) -> PLBound:
    """The PL constant is at most this, by the points of a walk.

    The best point is chosen on every other draw and the gaps to it are measured on the rest: chosen
    and measured on the same, they would come out too large. A gap counts from twice its error.
    """
    values = np.stack([np.asarray(g.return_A, np.float64) for g in walk.points])
    best = int(np.argmax(values[:, ::2].mean(axis=1)))
    bound = PLBound(math.inf, math.nan)
    for point, value in zip(walk.points, values, strict=True):
        differences = (values[best] - value)[1::2]
        gap = float(differences.mean())
        gap_error = float(differences.std(ddof=1)) / math.sqrt(differences.size)
        if gap <= 0 or gap < 2 * gap_error:
            continue
        norm = estimate_norm(point.attacker)
        squared = norm.squared if norm.resolved else norm.bound**2
        if squared / (2 * gap) < bound.value:
            relative = math.hypot(norm.squared_error / squared, gap_error / gap)
            mu = squared / (2 * gap)
            bound = PLBound(mu, mu * relative if norm.resolved else math.nan)
    return bound


@dataclasses.dataclass(frozen=True)
class Smoothness:
    """Lower bounds on the constants of Assumption D.2 for one type.

    Attributes:
        L11: of grad_theta L_D in theta.
        L12: of grad_theta L_D in phi.
        L21: of grad_phi L_A in theta.
        L22: of grad_phi L_A in phi.
    """

    L11: NormEstimate
    L12: NormEstimate
    L21: NormEstimate
    L22: NormEstimate


def smoothness(walk: Walk) -> Smoothness:
    """How much the gradients change between the saved point and the others, over the distance.

    Where several points resolve a change, the largest counts, else what the furthest gives.
    """

    def ratio(name: str, other: Gradients, distance: float) -> NormEstimate:
        here, there = getattr(walk.points[0], name), getattr(other, name)
        return estimate_norm(combine((1.0, -1.0), [there, here])).scaled(1 / distance)

    def along(name: str) -> NormEstimate:
        others = zip(walk.points[1:], walk.distances[1:], strict=True)
        ratios = [ratio(name, g, distance) for g, distance in others]
        resolved = [r for r in ratios if r.resolved]
        furthest = ratios[int(np.argmax(walk.distances[1:]))]
        return max(resolved, key=lambda r: r.norm) if resolved else furthest

    return Smoothness(
        L11=ratio("defender", walk.moved, walk.shift),
        L12=along("defender"),
        L21=ratio("attacker", walk.moved, walk.shift),
        L22=along("attacker"),
    )


@dataclasses.dataclass(frozen=True)
class StepSizes:
    """Those of Theorem D.7, at most: ``kappa_A = 1 / L22``, ``kappa_D = 1 / L``.

    Attributes:
        L: at least this; ``L11 + L12 L21 / mu`` of Lemma D.4, with the second term only where all
            of its parts are resolved, 0 where L11 is not either.
        whole: whether L has both terms.
        kappa_A: infinite where L22 is not resolved: then nothing is known.
        kappa_D: infinite where L is 0.
    """

    L: float
    whole: bool
    kappa_A: float
    kappa_D: float


def step_sizes(constants: Smoothness, mu: PLBound) -> StepSizes:
    """The step sizes that the constants of one type allow; a game's are the smallest of its types.

    The constants are lower bounds and mu is an upper bound, so L is a lower bound.
    """
    first = constants.L11.norm if constants.L11.resolved else 0.0
    whole = constants.L12.resolved and constants.L21.resolved and math.isfinite(mu.value)
    second = constants.L12.norm * constants.L21.norm / mu.value if whole else 0.0
    total = first + second
    return StepSizes(
        L=total,
        whole=whole and constants.L11.resolved,
        kappa_A=1 / constants.L22.norm if constants.L22.resolved else math.inf,
        kappa_D=1 / total if total else math.inf,
    )


def check_rewards(name: str, gradients: Gradients) -> None:
    """Raises ConfigError where a reward that was played is not finite; ``name`` is the type's."""
    for player in ("D", "A"):
        _require_finite(name, player, getattr(gradients, f"reward_{player}"))


def probe_rewards(key: Key, game, config: MetaConfig, num_rounds: int = 2) -> None:
    """Plays a few rounds of fresh policies against each type, for games that are new.

    Args:
        key: consumed.
        game: any game with a prior.
        config: the learner's settings.
        num_rounds: at most; no more than the game's horizon.

    Raises:
        ConfigError: for a reward that is not finite, and where a learner can't begin.
    """
    key_init, key_play = jax.random.split(key)
    state = init_state(key_init, game, config)

    @jax.jit
    def play(key, game, state, k):
        defender = defender_player(state, game, config)
        attacker = attacker_player(state, game, config, k)
        key_environment, key_policies = jax.random.split(jax.random.fold_in(key, k))
        _, played = rollout(
            key_environment, key_policies, game, game.prior[k], defender, attacker,
            num_rounds=min(num_rounds, game.horizon),
        )  # fmt: skip
        return played.defender.reward, played.attacker.reward

    for k, name in enumerate(game.prior.names):
        for player, rewards in zip("DA", play(key_play, game, state, k), strict=True):
            _require_finite(name, player, rewards)


def _require_finite(name: str, player: str, rewards: Any) -> None:
    rewards = np.asarray(rewards)
    if not np.isfinite(rewards).all():
        raise ConfigError(
            f"type {name!r} pays r_{player} = {rewards[~np.isfinite(rewards)][0]}: rewards must be "
            "finite, or the objectives J do not exist (section 2.2)"
        )
