"""What a certificate says of one state: residuals, competition, constants along an ascent."""

import dataclasses
import hashlib
import math
from collections.abc import Callable

import jax
import numpy as np

from metasg_jax.config import MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.learning.assumptions import (
    check_rewards,
    competition_by_presence,
    pl_bound,
    smoothness,
    step_sizes,
    walk,
)
from metasg_jax.learning.residuals import (
    MIN_BATCHES,
    NormEstimate,
    check_residuals,
    mean_gradient,
    residuals,
)
from metasg_jax.learning.sampled_gradients import (
    Gradients,
    combine,
    rollouts_per_batch,
    sample_gradients,
)
from metasg_jax.learning.state import MetaSGState, attacker_player, defender_player
from metasg_jax.limits import SEEDS
from metasg_jax.programs.certify.rows import PRIOR, Row


@dataclasses.dataclass(frozen=True)
class Budget:
    """What is spent on each checkpoint, and on which random numbers; the same for all.

    Attributes:
        batches: B, independent batches for each type; even.
        points: of an attacker's ascent; 0 leaves the constants out.
        seed: of the random numbers, which all checkpoints share.
    """

    batches: int = 32
    points: int = 4
    seed: int = 0

    def check(self, config: MetaConfig) -> None:
        """Raises ConfigError where it does not do, or not with this learner."""
        least = 2 * MIN_BATCHES
        if self.batches < least or self.batches % 2:
            raise ConfigError(f"batches = {self.batches}: an even number of at least {least}")
        if not 0 <= self.seed < SEEDS:
            raise ConfigError(f"seed = {self.seed}: at least 0, below 2**32 = {SEEDS:,}")
        if self.points < 0:
            raise ConfigError(f"points = {self.points}: at least 1, or 0 (no constants)")
        check_residuals(config, self.batches)


def certify_state(
    state: MetaSGState,
    game,
    config: MetaConfig,
    budget: Budget,
    on_progress: Callable[[str], None] = lambda what: None,
) -> list[Row]:
    """All rows of one state, in a game with a prior.

    Args:
        state: the learner's.
        game: its game.
        config: its settings.
        budget: what to spend.
        on_progress: told what was just played; :func:`plays` times.

    Raises:
        ConfigError: for rewards that are not finite, and for what :meth:`Budget.check` refuses.
    """
    budget.check(config)
    names, adaptive = game.prior.names, game.prior.adaptive
    half = budget.batches // 2
    defender = defender_player(state, game, config)
    # apart from the learner's keys, which come from the same small seeds
    root = jax.random.fold_in(jax.random.key(budget.seed), 0xCE27)

    def drawer(k: int):
        attacker = attacker_player(state, game, config, k)

        def draw(theta, phi, measures: bool) -> Gradients:
            drawn = sample_gradients(
                jax.random.fold_in(root, k), game, np.int32(k),
                defender.replace(params=theta), attacker.replace(params=phi),
                np.int32(half if measures else 0), config, half,
            )  # fmt: skip
            drawn = jax.tree.map(np.asarray, drawn)
            check_rewards(names[k], drawn)
            on_progress(names[k])
            return drawn

        return draw, attacker.params

    drawers = [drawer(k) for k in range(len(names))]
    halves = [
        (draw(state.theta, phi, False), draw(state.theta, phi, True)) for draw, phi in drawers
    ]
    both = [jax.tree.map(lambda a, b: np.concatenate([a, b]), *pair) for pair in halves]
    q = np.asarray(game.prior.probabilities)

    head = dict(
        step=state.num_steps, digest=digest(state), **dataclasses.asdict(budget)
    )  # fmt: skip
    rows: list[Row] = []

    def add(kind: str, quantity: str, estimate: float, error: float = math.nan) -> None:
        rows.append(Row(**head, type=kind, quantity=quantity, estimate=estimate, error=error))

    def add_norm(kind: str, quantity: str, norm: NormEstimate, types: int = 1) -> None:
        each = types * rollouts_per_batch(config)
        shown = (norm.norm, norm.error) if norm.resolved else (math.nan, math.nan)
        needed = norm.batches_needed(norm.bound / 2) * each
        rows.append(
            Row(
                **head,
                type=kind,
                quantity=quantity,
                estimate=shown[0],
                error=shown[1],
                bound=norm.bound,
                plain=norm.plain,
                squared=norm.squared,
                squared_error=norm.squared_error,
                needed=needed,
            )
        )

    found = residuals(both, q, adaptive)
    add_norm(PRIOR, "defender", found.defender, len(names))
    add_norm(PRIOR, "defender fixed", found.defender_fixed, len(names))
    for k, name in enumerate(names):
        add_norm(name, "defender", found.types[k])
        add_norm(name, "defender fixed", found.types_fixed[k])
        for quantity, norms in (
            ("attacker", found.attacker),
            ("attacker fixed", found.attacker_fixed),
        ):
            norm = norms[k]
            if norm is not None:
                add_norm(name, quantity, norm)
    for name, chosen in [(PRIOR, both), *((n, [g]) for n, g in zip(names, both, strict=True))]:
        for rounds, fit in competition_by_presence(chosen).items():
            for quantity, value in dataclasses.asdict(fit).items():
                add(name, f"{quantity} ({rounds})", value)
    if budget.points == 0:
        return rows
    ascent = mean_gradient(combine(q, [first.defender for first, _ in halves]))
    for k, name in enumerate(names):
        if not adaptive[k]:
            continue
        draw, phi = drawers[k]
        walked = walk(draw, state.theta, phi, halves[k], ascent, budget.points)
        mu, constants = pl_bound(walked), smoothness(walked)
        add(name, "mu", mu.value, mu.error)
        for field in dataclasses.fields(constants):
            add_norm(name, field.name, getattr(constants, field.name))
        sizes = step_sizes(constants, mu)
        add(name, "L", sizes.L)
        add(name, "L is whole", float(sizes.whole))
        add(name, "kappa_A", sizes.kappa_A)
        add(name, "kappa_D", sizes.kappa_D)
    return rows


def plays(game, budget: Budget) -> int:
    """How often :func:`certify_state` reports progress."""
    responding = sum(game.prior.adaptive) if budget.points else 0
    return 2 * len(game.prior) + 2 * budget.points * responding


def digest(state: MetaSGState) -> str:
    """A fingerprint of the policies and what they see through: 12 hex digits."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves((state.theta, state.phi, state.normalizer, state.normalizer_A)):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()[:12]
