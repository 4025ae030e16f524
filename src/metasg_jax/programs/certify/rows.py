"""A certificate's rows: one quantity of one checkpoint each, and the CSV that keeps them."""

import dataclasses
import math
from pathlib import Path

from metasg_jax.errors import ConfigError
from metasg_jax.files import CHECK, read_lines, whole_lines, write_lines

PRIOR = "prior"
"""Stands for the average over Q where a row's type does."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One quantity of one checkpoint; numbers that it does not have are NaN.

    Attributes:
        step: of the checkpoint.
        digest: of its state.
        batches: of the budget, as the next two.
        points: likewise.
        seed: likewise.
        type: the attacker type's name, or :data:`PRIOR`.
        quantity: what.
        estimate: NaN where it is not resolved.
        error: its standard error.
        bound: a norm's upper 95 % bound.
        plain: norm of the mean of all draws, biased up.
        squared: unbiased estimate of the squared norm.
        squared_error: its standard error.
        needed: about how many episodes would resolve a norm of half the bound.
    """

    step: int
    digest: str
    batches: int
    points: int
    seed: int
    type: str
    quantity: str
    estimate: float
    error: float = math.nan
    bound: float = math.nan
    plain: float = math.nan
    squared: float = math.nan
    squared_error: float = math.nan
    needed: float = math.nan

    @property
    def mark(self) -> tuple:
        """What identifies state and budget: rows that share it were computed together."""
        return self.step, self.digest, self.batches, self.points, self.seed

    @property
    def text(self) -> str:
        """A norm with its error; or, unresolved, its bound and what it would take."""
        if self._unresolved and self.bound > 0:
            needed = rounded(self.needed)
            return f"below {self.bound:.2g} (too few rollouts: about {needed} needed)"
        return self.short

    @property
    def short(self) -> str:
        """The same without what it would take, for wide tables."""
        if self._unresolved:
            return f"below {self.bound:.2g} (too few)" if self.bound > 0 else "0"
        if math.isnan(self.error):
            return number(self.estimate)
        return f"{self.estimate:.3g} ± {self.error:.2g}"

    @property
    def _unresolved(self) -> bool:
        return math.isnan(self.estimate) and not math.isnan(self.bound)


def read_rows(file: Path) -> list[Row]:
    """The rows of a certify.csv, none where there is none.

    Raises:
        ConfigError: for a file that is something else.
        CheckpointError: for one that is damaged.
    """
    if not file.is_file():
        return []
    fields = dataclasses.fields(Row)
    names = [f.name for f in fields]
    header = whole_lines(file)[0][:1]
    if header not in ([",".join(names)], [",".join([*names, CHECK])]):
        raise ConfigError(f"out: {file} is not a certificate of this version; move it away")

    def read(line: dict[str, str]) -> Row:
        return Row(**{f.name: f.type(line[f.name] or "nan") for f in fields})  # pyrefly: ignore

    return read_lines(file, names, read)


def write_rows(rows: list[Row], file: Path) -> None:
    """Writes certify.csv; a run that is killed leaves the old one or the new one."""
    names = [f.name for f in dataclasses.fields(Row)]
    filled = (
        {name: "" if value != value else value for name, value in dataclasses.asdict(row).items()}
        for row in rows
    )
    write_lines(file, names, filled)


def pick(rows: list[Row], kind: str, quantity: str) -> Row:
    """The first of a type, or :data:`PRIOR`, and a quantity."""
    return next(r for r in rows if (r.type, r.quantity) == (kind, quantity))


def number(value: float) -> str:
    """Three digits, a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.3g}"


def rounded(value: float) -> str:
    """Two digits: an order of magnitude is meant."""
    if not math.isfinite(value) or value <= 0:
        return "many more"
    digits = max(0, int(math.log10(value)) - 1)
    return f"{round(value, -digits):,.0f}"
