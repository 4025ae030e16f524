"""Pathwise derivatives: through the simulator itself, where it is differentiable."""

import jax
import jax.numpy as jnp
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player, Trajectory, map_groups, rollout
from metasg_jax.learning.estimators.score import discounted_return
from metasg_jax.numerics import largest_divisor
from metasg_jax.types import Key, Params


def pathwise(
    key: Key, game, xi, defender: Player, attacker: Player, leads: jax.Array, config: MetaConfig
) -> tuple[Params, Params, Trajectory]:
    """The mean of ``grad J(episode)``, actions being differentiable functions of the noise.

    Derivatives flow through at most ``config.window`` rounds (0: the whole episode): windows begin
    at a state that counts as constant, and are computed again on the way back, so that memory grows
    with the window and not with the episode. Unbiased where the window is the episode and rewards
    are continuous in the actions; a shorter window forgets what an action does beyond it.

    Interface and results as in :mod:`metasg_jax.learning.estimators`. Not for finite games, whose
    actions are not differentiable.
    """
    length = largest_divisor(game.horizon, config.window or game.horizon)

    def episode(key_environment, key_policies, params):
        leader, follower = defender.replace(params=params[0]), attacker.replace(params=params[1])
        key_reset, key_windows = jax.random.split(key_environment)

        @jax.checkpoint
        def window(state, i):
            return rollout(
                jax.random.fold_in(key_windows, i),
                jax.random.fold_in(key_policies, i),
                game,
                xi,
                leader,
                follower,
                state=jax.lax.stop_gradient(state),
                num_rounds=length,
            )

        begin = game.reset(key_reset, xi)
        _, played = jax.lax.scan(window, begin, jnp.arange(game.horizon // length))
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), played)

    def member(key_environment, key_policies):
        def objective(params):
            played = episode(key_environment, key_policies, params)
            returns = [
                discounted_return(side.reward, config.discount)
                for side in (played.defender, played.attacker)
            ]
            return jnp.where(leads, *returns), played

        params = (defender.params, attacker.params)
        (theta, phi), played = jax.grad(objective, has_aux=True)(params)
        theta = optax.tree.scale(jnp.where(leads, 1.0, 0.0), theta)
        phi = optax.tree.scale(jnp.where(leads, 0.0, 1.0), phi)
        return theta, phi, played

    theta, phi, played = map_groups(
        member, key, config.num_groups, config.group_size, config.rollouts_at_once
    )
    mean = jax.tree.map(lambda leaf: leaf.mean(axis=(0, 1)), (theta, phi))
    return *mean, played
