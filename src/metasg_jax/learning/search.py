"""Constant actions of an attacker, tried before it learns: where its policy begins."""

import functools

import jax
import jax.numpy as jnp

from metasg_jax.game.rollout import Player, init_normalizer, rollout
from metasg_jax.policies import Fixed
from metasg_jax.types import Key

_LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)
_KEPT, _AGAIN = 4, 3


@functools.partial(jax.jit, static_argnames="num_actions")
def best_constant(
    key: Key, game, xi_index: jax.Array, defender: Player, num_actions: int
) -> tuple[jax.Array, jax.Array]:
    """The constant action that earns an attacker most against a defender that stands still.

    ``num_actions`` points drawn from a grid of five levels a knob play an episode each, the same
    for all; the best quarter of them three more. The first point is the middle of all knobs. An
    episode counts by the mean reward of its last quarter: rewards are levels of the loss, and the
    return of the literature's attackers, who are paid by its rise, is the level at the end.

    Args:
        key: consumed.
        game: with a prior; not finite.
        xi_index: i32[], the attacker's type; must not be batched.
        defender: as it is deployed.
        num_actions: static, at least 1.

    Returns:
        (action f32[A], f32[] what its episodes earn a round in their last quarter).
    """
    key_draw, key_first, key_more = jax.random.split(key, 3)
    shape = (num_actions, game.attacker_action_size)
    actions = jax.random.choice(key_draw, jnp.asarray(_LEVELS), shape).at[0].set(0.0)
    normalizer, policy = init_normalizer(game.attacker_observation_size), Fixed(shape[1])
    xi = game.prior[xi_index]
    last = -max(1, game.horizon // 4)

    def earn(key, actions):
        """What each earns in an episode, f32[J]."""
        key_environment, key_policies = jax.random.split(key)

        def one(action):
            attacker = Player(action, normalizer, policy, True)
            played = rollout(key_environment, key_policies, game, xi, defender, attacker)[1]
            return played.attacker.reward[last:].mean()

        return jax.vmap(one)(actions)

    first = earn(key_first, actions)
    kept = jnp.argsort(-first)[: max(1, num_actions // _KEPT)]
    more = jax.lax.map(lambda k: earn(k, actions[kept]), jax.random.split(key_more, _AGAIN))
    earned = (first[kept] + more.sum(axis=0)) / (1 + _AGAIN)
    best = jnp.argmax(earned)
    return actions[kept][best], earned[best]
