"""Psi: from the meta policy to one adapted to a type, by policy-gradient steps (equation C3)."""

import jax
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player, Trajectory, rollout_groups
from metasg_jax.learning.estimators import policy_gradient
from metasg_jax.types import Key


def adapt(
    key: Key, game, xi, defender: Player, attacker: Player, step_size, config: MetaConfig
) -> tuple[Player, Trajectory]:
    """``config.adapt_steps`` steps of ascent on J_D, each on fresh episodes at the present policy.

    Line 8 of Algorithm 2 and lines 8-12 of Algorithm 1 (whose line 11 must take its gradient at
    the adapted parameters).

    Args:
        key: consumed.
        game: the game.
        xi: the type.
        defender: where to start.
        attacker: held fixed.
        step_size: eta, or kappa of Algorithm 1.
        config: batch and estimator.

    Returns:
        (the adapted defender, the episodes with a leading axis ``adapt_steps``).
    """

    def step(params, key):
        player = defender.replace(params=params)
        played = rollout_groups(
            key, game, xi, player, attacker, config.num_groups, config.group_size
        )
        gradient = policy_gradient(defender.policy, params, played.defender, config)
        return optax.tree.add_scale(params, step_size, gradient), played

    keys = jax.random.split(key, config.adapt_steps)
    params, played = jax.lax.scan(step, defender.params, keys)
    return defender.replace(params=params), played
