"""Psi: from the meta policy to one adapted to a type, by policy-gradient steps (equation C3)."""

import jax
import jax.numpy as jnp
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player, Trajectory
from metasg_jax.learning.estimators import ESTIMATORS
from metasg_jax.types import Key


def adapt(
    key: Key, game, xi, defender: Player, attacker: Player, step_size, config: MetaConfig
) -> tuple[Player, Trajectory]:
    """``config.adapt_steps`` steps of ascent on J_D against a fixed attacker.

    Each on fresh episodes of the policy as adapted so far: lines 9-11 of Algorithm 1, whose
    gradient must be taken at the adapted parameters.

    Args:
        key: consumed.
        game: the game.
        xi: the type.
        defender: where to start.
        attacker: held fixed.
        step_size: eta, or kappa of Algorithm 1.
        config: batch and estimator.

    Returns:
        (the adapted defender, the episodes with leading axes [adapt_steps, E, G]).
    """
    estimate = ESTIMATORS[config.gradient]
    leads = jnp.ones((), bool)

    def step(params, i):
        player = defender.replace(params=params)
        key_step = jax.random.fold_in(key, i)
        gradient, _, played = estimate(key_step, game, xi, player, attacker, leads, config)
        return optax.tree.add_scale(params, step_size, gradient), played

    params, played = jax.lax.scan(step, defender.params, jnp.arange(config.adapt_steps))
    return defender.replace(params=params), played
