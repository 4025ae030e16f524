"""Evolution strategies: no gradient of anything, only returns at perturbed parameters."""

import jax
import jax.numpy as jnp
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.fl.axes import over_rollouts
from metasg_jax.game.rollout import Player, Trajectory, map_at_once, rollout
from metasg_jax.learning.estimators.score import discounted_return
from metasg_jax.types import Key, Params


def evolution(
    key: Key, game, xi, defender: Player, attacker: Player, leads: jax.Array, config: MetaConfig
) -> tuple[Params, Params, Trajectory]:
    """``mean (J(p + s e) - J(p - s e)) / (2 s) e`` over antithetic pairs, e standard normal.

    The two episodes of a pair share all random numbers, the policies' noise too. Unbiased for the
    gradient of J smoothed by the perturbation ``s = config.perturbation`` (Salimans et al., 2017),
    which is off that of J by O(s^2).

    Interface and results as in :mod:`metasg_jax.learning.estimators`; the pairs are
    ``group_size * num_groups / 2``.
    """
    num_pairs = config.group_size * config.num_groups // 2
    signs = jnp.array([1.0, -1.0])

    def pair(i):
        keys = jax.random.split(jax.random.fold_in(key, i), 4)
        noise_d = optax.tree.random_like(keys[0], defender.params)
        noise_a = optax.tree.random_like(keys[1], attacker.params)

        def member(sign):
            step_d = jnp.where(leads, sign * config.perturbation, 0.0)
            step_a = jnp.where(leads, 0.0, sign * config.perturbation)
            leader = defender.replace(params=optax.tree.add_scale(defender.params, step_d, noise_d))
            follower = attacker.replace(
                params=optax.tree.add_scale(attacker.params, step_a, noise_a)
            )
            return rollout(keys[2], keys[3], game, xi, leader, follower)[1]

        with jax.debug_key_reuse(False):  # on purpose: the pair shares its random numbers
            played = jax.vmap(member)(signs)
        slope_d, slope_a = (
            signs @ discounted_return(side.reward, config.discount) / (2 * config.perturbation)
            for side in (played.defender, played.attacker)
        )
        theta = optax.tree.scale(jnp.where(leads, slope_d, 0.0), noise_d)
        phi = optax.tree.scale(jnp.where(leads, 0.0, slope_a), noise_a)
        return theta, phi, played

    def block(first, _, pairs, alone):
        at_once = config.rollouts_at_once // 2 if config.rollouts_at_once > 0 else pairs
        each = map_at_once(lambda i: pair(first + i), pairs, max(1, min(at_once, pairs)))
        return jax.tree.map(lambda leaf: leaf[:, None], each)

    theta, phi, played = over_rollouts(block, num_pairs, 1)
    theta, phi = jax.tree.map(lambda leaf: leaf.mean(axis=(0, 1)), (theta, phi))
    batch = (config.num_groups, config.group_size)
    return theta, phi, jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[3:]), played)
