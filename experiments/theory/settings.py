"""What the scripts on the paper's theorems are run with."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Complexity:
    """What is run."""

    seeds: int = 8
    """Initial points, or runs of the algorithm with its own noise."""
    steps: int = 10000
    """Meta-steps with exact gradients, at the most."""
    sampled_steps: int = 200
    """Meta-steps with sampled gradients."""
    batches: tuple[int, ...] = (8, 32, 128, 512)
    """N_b of the runs with sampled gradients."""
    inner_batches: tuple[int, ...] = (4, 16, 64, 256, 1024)
    """N_b of the best responses."""
    inner_runs: int = 512
    """Best responses for each N_b and game."""
    toy: bool = False
    """The first case of each table, and a hundredth of all that: does it run?"""
    seed: int = 0
    """Seed of all randomness."""
    out: Path = Path("docs/results/complexity.csv")
    """Where the numbers go, in long form; plots beside it."""

    def sized(self) -> "Complexity":
        """With the toy's numbers, if it is one."""
        if not self.toy:
            return self
        return dataclasses.replace(
            self,
            seeds=2,
            steps=60,
            sampled_steps=4,
            batches=(4, 8),
            inner_batches=(4, 16),
            inner_runs=8,
        )

    def some(self, cases):
        """All of them, or a toy's first."""
        return cases[:1] if self.toy else cases


@dataclasses.dataclass(frozen=True)
class Estimators:
    """What is run."""

    draws: int = 1 << 22
    """The most independent estimates of a meta gradient; fewer where the precision is reached."""
    precision: float = 0.007
    """Relative standard error at which drawing stops."""
    game_draws: int = 1 << 16
    """Estimates of grad J on a game with a known gradient, for each estimator."""
    fl_draws: int = 256
    """Estimates on the FL game by scores, for each type and deviation; evolution takes half as
    many, pathwise derivatives a sixteenth. 0 leaves the FL game out."""
    horizon: int = 40
    """Rounds of the FL game."""
    toy: bool = False
    """The first case of each table, a few draws, no FL game: does it run?"""
    seed: int = 0
    """Seed of all draws."""
    out: Path = Path("docs/results/estimators.csv")
    """Where the numbers go, in long form."""

    def sized(self) -> "Estimators":
        """With the toy's numbers, if it is one."""
        few = dict(draws=64, game_draws=64, fl_draws=0) if self.toy else {}
        return dataclasses.replace(self, **few)

    def some(self, cases):
        """All of them, or a toy's first."""
        return cases[:1] if self.toy else cases
