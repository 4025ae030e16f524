"""Estimates of grad J from episodes, behind one interface; and what the score function needs.

An estimator is a function ``(key, game, xi, defender, attacker, leads, config) -> (theta, phi,
episodes)``: it plays ``config.num_groups * config.group_size`` episodes [E, G, H] and estimates the
gradient of the leader's J_D with respect to its parameters where ``leads`` (bool[], not batched) is
true, else that of the follower's J_A with respect to its own; the other player's is zero.
"""

from metasg_jax.learning.estimators.credit import credit
from metasg_jax.learning.estimators.evolution import evolution
from metasg_jax.learning.estimators.pathwise import pathwise
from metasg_jax.learning.estimators.score import (
    advantages,
    discounted_return,
    discounted_to_go,
    log_probs,
    policy_gradient,
    score,
    step_weights,
    surrogate,
)
from metasg_jax.registry import Registry

ESTIMATORS = Registry(
    "gradient",
    {"score": score, "evolution": evolution, "pathwise": pathwise, "credit": credit},
)

__all__ = [
    "ESTIMATORS",
    "advantages",
    "credit",
    "discounted_return",
    "discounted_to_go",
    "evolution",
    "log_probs",
    "pathwise",
    "policy_gradient",
    "score",
    "step_weights",
    "surrogate",
]
