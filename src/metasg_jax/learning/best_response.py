"""The follower's best response to an adapted leader: an inner scan (Algorithm 2, lines 9-13)."""

from typing import Any

import jax
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player, rollout_groups
from metasg_jax.learning.estimators import policy_gradient
from metasg_jax.learning.state import attacker_optimizer
from metasg_jax.types import Key


def best_response(
    key: Key, game, xi, defender: Player, attacker: Player, opt_state: Any, config: MetaConfig
) -> tuple[Player, Any]:
    """``config.attacker_steps`` gradient steps on J_A against a fixed defender.

    Args:
        key: consumed.
        game: the game.
        xi: the type, an adaptive one.
        defender: held fixed.
        attacker: where to start: the parameters that this type had after the last meta-step.
        opt_state: of the attacker's optimizer.
        config: batch and estimator.

    Returns:
        (attacker, optimizer state).
    """
    optimizer = attacker_optimizer(config)

    def step(carry, key):
        params, opt_state = carry
        player = attacker.replace(params=params)
        played = rollout_groups(
            key, game, xi, defender, player, config.num_groups, config.group_size
        )
        ascent = policy_gradient(attacker.policy, params, played.attacker, config)
        updates, opt_state = optimizer.update(optax.tree.scale(-1.0, ascent), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    keys = jax.random.split(key, config.attacker_steps)
    (params, opt_state), _ = jax.lax.scan(step, (attacker.params, opt_state), keys)
    return attacker.replace(params=params), opt_state
