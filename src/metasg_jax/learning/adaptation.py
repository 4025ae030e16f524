"""Psi: from the meta policy to one adapted to a type, by policy-gradient steps (equation C3)."""

import jax
import jax.numpy as jnp
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player, Trajectory, rollout_groups
from metasg_jax.learning.estimators import policy_gradient
from metasg_jax.types import Key


def adapt_step(defender: Player, played: Trajectory, step_size, config: MetaConfig) -> Player:
    """One step of ascent on J_D, from episodes [E, G, H] that ``defender`` has played.

    Line 8 of Algorithm 2; line 11 of Algorithm 1, whose gradient must be taken at the adapted
    parameters.
    """
    gradient = policy_gradient(defender.policy, defender.params, played.defender, config)
    return defender.replace(params=optax.tree.add_scale(defender.params, step_size, gradient))


def adapt(
    key: Key, game, xi, defender: Player, attacker: Player, step_size, config: MetaConfig
) -> tuple[Player, Trajectory]:
    """``config.adapt_steps`` steps against a fixed attacker, each on fresh episodes.

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

    def step(params, i):
        player = defender.replace(params=params)
        played = rollout_groups(
            jax.random.fold_in(key, i),
            game,
            xi,
            player,
            attacker,
            config.num_groups,
            config.group_size,
            config.rollouts_at_once,
        )
        return adapt_step(player, played, step_size, config).params, played

    params, played = jax.lax.scan(step, defender.params, jnp.arange(config.adapt_steps))
    return defender.replace(params=params), played
