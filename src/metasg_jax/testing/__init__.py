"""Small inputs, and games with known answers, for tests, notebooks and experiments."""

from metasg_jax.testing.bandit import BanditAnswer, bandit
from metasg_jax.testing.belief import perfect_bayesian_value, posterior
from metasg_jax.testing.double_well import (
    DoubleWellAnswer,
    DoubleWellGame,
    double_well,
    double_well_answer,
)
from metasg_jax.testing.exact import (
    ExactGame,
    best_response,
    count_batches,
    exact_meta_values,
    exact_values,
)
from metasg_jax.testing.finite import (
    FiniteGame,
    FiniteType,
    action_probabilities,
    best_response_table,
    count_trajectories,
    finite_game,
    probability,
    trajectories,
    value,
)
from metasg_jax.testing.fl import received, tiny_dataset, tiny_game
from metasg_jax.testing.leader_follower import (
    AdaptedAnswer,
    LeaderFollowerAnswer,
    LeaderFollowerGame,
    adapted_answer,
    first_order_gradient,
    leader_follower,
    leader_follower_answer,
    leader_gradient,
    leader_value,
)
from metasg_jax.testing.matrix import MatrixAnswer, commitment_game, matrix_answer, matrix_game
from metasg_jax.testing.prior import TypeTable, type_table
from metasg_jax.testing.probe import ProbeGame, ProbePrior, ProbeType, probe_game
from metasg_jax.testing.quadratic_fl import (
    QuadraticFLAnswer,
    QuadraticFLGame,
    quadratic_fl,
    quadratic_fl_answer,
)
from metasg_jax.testing.two_types import TwoTypesAnswer, two_types, two_types_answer

__all__ = [
    "AdaptedAnswer",
    "BanditAnswer",
    "DoubleWellAnswer",
    "DoubleWellGame",
    "ExactGame",
    "FiniteGame",
    "FiniteType",
    "LeaderFollowerAnswer",
    "LeaderFollowerGame",
    "MatrixAnswer",
    "ProbeGame",
    "ProbePrior",
    "ProbeType",
    "QuadraticFLAnswer",
    "QuadraticFLGame",
    "TwoTypesAnswer",
    "TypeTable",
    "action_probabilities",
    "adapted_answer",
    "bandit",
    "best_response",
    "best_response_table",
    "commitment_game",
    "count_batches",
    "count_trajectories",
    "double_well",
    "double_well_answer",
    "exact_meta_values",
    "exact_values",
    "finite_game",
    "first_order_gradient",
    "leader_follower",
    "leader_follower_answer",
    "leader_gradient",
    "leader_value",
    "matrix_answer",
    "matrix_game",
    "perfect_bayesian_value",
    "posterior",
    "probability",
    "probe_game",
    "quadratic_fl",
    "quadratic_fl_answer",
    "received",
    "tiny_dataset",
    "tiny_game",
    "trajectories",
    "two_types",
    "two_types_answer",
    "type_table",
    "value",
]
