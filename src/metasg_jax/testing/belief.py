"""Play that remembers: beliefs over the type by Bayes' rule, and the best value with them."""

import numpy as np
from numpy.typing import ArrayLike

from metasg_jax.testing.finite import FiniteGame


def posterior(belief: np.ndarray, likelihood: np.ndarray) -> np.ndarray:
    """Equation (B1): the belief f64[K] after an observation of the given likelihoods f64[K].

    The defender sees states and its own actions, not the attacker's: the likelihood of the next
    state under a type is ``sum_a pi_A(a | s) T(s' | s, a_D, a)``, where (B1) has the term of the
    attack that was played. Of an observation that no type allows, the belief is left as it was.
    """
    joint = belief * likelihood
    total = joint.sum()
    return joint / total if total > 0 else belief


def perfect_bayesian_value(game: FiniteGame, attacks: ArrayLike, discount: float = 1.0) -> float:
    """The best J_D over policies of the whole history, against known attacks: float64, exact.

    With the attackers' policies fixed this is the leader's side of a perfect Bayesian equilibrium;
    it is one where the attacks are best responses whatever the defender does (a dominant attack).

    Args:
        game: a finite game.
        attacks: [K, S, A_A], each type's Markov policy.
        discount: gamma.
    """
    types = game.prior.types
    transition, reward = (np.asarray(a, np.float64) for a in (types.transition, types.reward_D))
    pi_A = np.asarray(attacks, np.float64)
    # the attack's noise is not seen: all that matters is its mean
    transition = np.einsum("ksa,ksdat->ksdt", pi_A, transition)
    reward = np.einsum("ksa,ksda->ksd", pi_A, reward)

    def best(t: int, s: int, belief: np.ndarray) -> float:
        values = []
        for a in range(game.action_size):
            value = float(belief @ reward[:, s, a])
            if t + 1 < game.horizon:
                for after in range(game.num_states):
                    likelihood = transition[:, s, a, after]
                    chance = float(belief @ likelihood)
                    if chance > 0:
                        follows = best(t + 1, after, posterior(belief, likelihood))
                        value += discount * chance * follows
            values.append(value)
        return max(values)

    prior = np.asarray(game.prior.probabilities, np.float64)
    prior = prior / prior.sum()
    initial = np.asarray(game.initial, np.float64)
    return sum(p * best(0, s, prior) for s, p in enumerate(initial) if p > 0)
