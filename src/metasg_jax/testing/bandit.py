"""A two-armed bandit: where (C4) with (C5) can be seen to be biased."""

import dataclasses

import numpy as np

from metasg_jax.testing.finite import FiniteGame, finite_game


@dataclasses.dataclass(frozen=True)
class BanditAnswer:
    """Known numbers of :func:`bandit`, by exact enumeration.

    At theta = 0.3, the second arm's logit, with N_b = 1 and eta = 0.5.

    Attributes:
        theta: the point.
        adapt_lr: eta.
        derivative: of V_s, the objective with a sampled adaptation.
        with_C5: what (C4) gives with (C5) in it as printed: the Hessian's score term counts the
            sampling law a second time.
        best_value: of the best arm.
    """

    theta: float = 0.3
    adapt_lr: float = 0.5
    derivative: float = 0.188105
    with_C5: float = 0.173160
    best_value: float = -0.2


def bandit(rewards: tuple[float, ...] = (-1.0, -0.2), horizon: int = 1) -> FiniteGame:
    """One non-adaptive type, one state; each arm pays what it pays.

    With p = sigmoid(theta) the probability of the second arm, one episode and the plain return,
    ``theta' = theta + eta r_a (1[a = 2] - p)`` and
    ``V_s(theta) = (1 - p) J(theta - eta r_1 p) + p J(theta + eta r_2 (1 - p))``, whose derivative
    is :class:`BanditAnswer`'s.

    Args:
        rewards: of the arms, the defender's; the attacker earns their negative.
        horizon: rounds.
    """
    reward = np.asarray(rewards, np.float32).reshape(1, 1, -1, 1)
    return finite_game(
        transition=np.ones((*reward.shape, 1)),
        reward_D=reward,
        reward_A=-reward,
        initial=[1.0],
        horizon=horizon,
        names=("bandit",),
        adaptive=(False,),
    )
