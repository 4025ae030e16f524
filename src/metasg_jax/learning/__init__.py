"""The learner: estimators, adaptation, best response, Algorithms 1 and 2, pre-training."""

from metasg_jax.learning.adaptation import adapt
from metasg_jax.learning.best_response import inner_loop
from metasg_jax.learning.estimators import policy_gradient
from metasg_jax.learning.meta_rl import meta_rl_step, meta_rl_update
from metasg_jax.learning.meta_sl import meta_sl_step, meta_sl_update
from metasg_jax.learning.pretrain import pretrain
from metasg_jax.learning.respond import best_response_step, best_response_update
from metasg_jax.learning.state import (
    MetaSGState,
    attacker_player,
    defender_player,
    init_state,
    policies,
)

__all__ = [
    "MetaSGState",
    "adapt",
    "attacker_player",
    "best_response_step",
    "best_response_update",
    "defender_player",
    "init_state",
    "inner_loop",
    "meta_rl_step",
    "meta_rl_update",
    "meta_sl_step",
    "meta_sl_update",
    "policies",
    "policy_gradient",
    "pretrain",
]
