"""Two hidden types, memoryless policies: adapting beats the best fixed policy by a known margin."""

import dataclasses

import numpy as np

from metasg_jax.testing.finite import FiniteGame, finite_game


@dataclasses.dataclass(frozen=True)
class TwoTypesAnswer:
    """Known values of :func:`two_types` with its default arguments, against the strong attack.

    Discount 1. The meta numbers are for the sampled objective with ``adapt_steps=1``,
    ``num_groups=2``, ``group_size=1`` (N_b = 2), ``estimator="return_to_go"``,
    ``baseline="none"`` and ``adapt_lr`` below, by exact optimisation in float64.

    Attributes:
        adapt_lr: eta.
        fixed: E_Q J_D of the best fixed action, the first: 0.65 x 1 - 0.35 x 1.
        bse: of the best memoryless policy (Bayesian Stackelberg equilibrium): the same, as any
            policy that reads the state is misled by it.
        perfect_bayesian: with the whole history and beliefs (B1): the first action reveals the
            type, ``(0.79 + 0.51) / 2``.
        known_type: of the right action in every round: what a revealed type is worth.
        meta: V at the meta-equilibrium.
        theta: there: logits of the second action in the two states.
        meta_uniform: V at theta = 0.
    """

    adapt_lr: float = 8.0
    fixed: float = 0.3
    bse: float = 0.3
    perfect_bayesian: float = 0.65
    known_type: float = 1.0
    meta: float = 0.608296
    theta: tuple[float, float] = (-0.219067, -0.525802)
    meta_uniform: float = 0.589983

    @property
    def margin(self) -> float:
        """By how much the meta-equilibrium beats the Bayesian Stackelberg equilibrium."""
        return self.meta - self.bse


def two_types(
    probabilities: tuple[float, float] = (0.65, 0.35),
    relief: float = 0.5,
    horizon: int = 2,
) -> FiniteGame:
    """A Bayesian Stackelberg Markov game with two states, two actions, and two adaptive types.

    Against type k, action k is right, the other wrong. Paid to the defender in the states (0, 1)
    under the strong attack:

    ====== ============ =============
    type   right        wrong
    ====== ============ =============
    first  0.5, 0.5     -0.5, -0.5
    second 0.7, 0.3     -0.3, -0.7
    ====== ============ =============

    The weak attack (the attacker's first action) adds ``relief`` to each; the attacker earns the
    negative, so the strong one (its second) is strictly better in every state and round whatever
    the defender plays, and it is the only best response. Right moves to the other state, wrong
    stays; the first state is drawn uniformly.

    A memoryless policy learns nothing within an episode: the state is uniform at first, and what
    it says later depends on a past that is not remembered. The rewards of a batch do tell the
    types apart, so a policy adapted to them by one gradient step does better. See
    :class:`TwoTypesAnswer`.

    Args:
        probabilities: the prior Q.
        relief: above 0, what the defender gains where the attack is weak.
        horizon: rounds.
    """
    right = np.array([[0.5, 0.5], [0.7, 0.3]])
    wrong = np.array([[-0.5, -0.5], [-0.3, -0.7]])
    reward = np.zeros((2, 2, 2, 2), np.float32)  # type, state, defender, attacker
    transition = np.zeros((2, 2, 2, 2, 2), np.float32)
    for k in range(2):
        for s in range(2):
            for action in range(2):
                fits = action == k
                pay = (right if fits else wrong)[k, s]
                reward[k, s, action] = pay + relief * np.array([1, 0])
                transition[k, s, action, :, 1 - s if fits else s] = 1.0
    return finite_game(
        transition,
        reward,
        -reward,
        [0.5, 0.5],
        horizon,
        names=("first is right", "second is right"),
        adaptive=(True, True),
        probabilities=probabilities,
    )


def two_types_answer() -> TwoTypesAnswer:
    """The known values."""
    return TwoTypesAnswer()
