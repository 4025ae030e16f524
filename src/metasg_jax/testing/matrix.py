"""2 x 2 Stackelberg matrix games: a zero-sum one and one where commitment beats Nash."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from metasg_jax.testing.finite import FiniteGame, finite_game


@dataclasses.dataclass(frozen=True)
class MatrixAnswer:
    """The strong Stackelberg equilibrium of a 2 x 2 game: ties are broken in the leader's favour.

    Attributes:
        first_row: probability of the leader's first row.
        column: what the follower answers, 0 or 1; where it is indifferent, the leader's choice.
        value: the leader's.
        follower_value: the follower's.
        nash: the leader's value in the Nash equilibrium; NaN where there isn't exactly one.
    """

    first_row: float
    column: int
    value: float
    follower_value: float
    nash: float

    @property
    def logit(self) -> float:
        """Logit of the second row where the first row's is 0; +-inf for a pure commitment."""
        with np.errstate(divide="ignore"):
            return float(np.log1p(-self.first_row) - np.log(self.first_row))


def matrix_game(
    reward_D: ArrayLike = ((0.6, -0.4), (-0.2, 0.4)),
    reward_A: ArrayLike | None = None,
    horizon: int = 1,
) -> FiniteGame:
    """One adaptive type, one state: the leader picks a row, the follower a column.

    The default is strictly competitive, r_A = -r_D. Against the columns, p on the first row earns
    ``0.8 p - 0.2`` and ``0.4 - 0.8 p``; the follower takes the smaller, so the leader's best is
    where they cross: p = 0.375, value 0.1 (and the follower's Nash mixture is 1/2, 1/2). There V
    has a kink: the best response jumps from a column to the other.

    Args:
        reward_D: [2, 2], the leader's; rows its own.
        reward_A: [2, 2], the follower's; the negative of the leader's by default.
        horizon: rounds; the game is repeated.
    """
    r_d = np.asarray(reward_D, np.float32)[None, None]
    r_a = -r_d if reward_A is None else np.asarray(reward_A, np.float32)[None, None]
    return finite_game(np.ones((*r_d.shape, 1)), r_d, r_a, [1.0], horizon, ("matrix",), (True,))


def commitment_game() -> FiniteGame:
    """The textbook game where committing pays (Conitzer and Sandholm, EC 2006), over 4.

    Payoffs (leader, follower), times 4: ``(2, 1), (4, 0); (1, 0), (3, 1)``. The first row dominates
    and the only Nash equilibrium pays the leader 2/4. Committed to the first row with p <= 1/2, the
    follower answers with the second column: at p = 1/2, where it is indifferent, the leader earns
    3.5/4. General-sum: an algorithm that ignores how the follower answers can't find it.
    """
    leader = np.array([[2.0, 4.0], [1.0, 3.0]]) / 4
    follower = np.array([[1.0, 0.0], [0.0, 1.0]]) / 4
    return matrix_game(leader, follower)


def matrix_answer(game: FiniteGame) -> MatrixAnswer:
    """Solves a 2 x 2 game of one round, in float64.

    The follower's answer is constant between commitments where it is indifferent, and the leader's
    value linear there: the best commitment is pure or one of indifference.
    """
    r_d, r_a = (
        np.asarray(table, np.float64)[0, 0]
        for table in (game.prior.types.reward_D, game.prior.types.reward_A)
    )
    candidates = [0.0, 1.0]
    gain = r_a[:, 1] - r_a[:, 0]  # of the second column over the first, for each row
    if gain[0] != gain[1]:
        p = gain[1] / (gain[1] - gain[0])
        candidates += [p] if 0 < p < 1 else []
    best = None
    for p in candidates:
        mix = np.array([p, 1 - p])
        follower, leader = mix @ r_a, mix @ r_d
        for column in np.flatnonzero(np.isclose(follower, follower.max(), rtol=0, atol=1e-7)):
            answer = (float(leader[column]), p, int(column), float(follower[column]))
            best = answer if best is None or answer[0] > best[0] + 1e-12 else best
    assert best is not None
    value, p, column, follower_value = best
    return MatrixAnswer(p, column, value, follower_value, _nash_value(r_d, r_a))


def _nash_value(r_d: np.ndarray, r_a: np.ndarray) -> float:
    """The leader's value in the only Nash equilibrium; NaN if there are several."""
    values = [
        r_d[i, j]
        for i in range(2)
        for j in range(2)
        if r_d[i, j] >= r_d[1 - i, j] and r_a[i, j] >= r_a[i, 1 - j]
    ]
    rows, columns = r_d[0] - r_d[1], r_a[:, 0] - r_a[:, 1]
    if rows[0] * rows[1] < 0 and columns[0] * columns[1] < 0:
        q = rows[1] / (rows[1] - rows[0])  # on the first column: the leader is indifferent
        values.append(float(r_d[0] @ [q, 1 - q]))
    return float(values[0]) if len(values) == 1 else float("nan")
