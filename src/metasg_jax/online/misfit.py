"""Whether the own world's types explain what was seen: a posterior predictive check."""

import functools

import jax
import jax.numpy as jnp

from metasg_jax.game.rollout import Player, rollout
from metasg_jax.online.belief import against_likely
from metasg_jax.online.view import OnlineView, OwnWorld, summary
from metasg_jax.types import Key

STRANGE = 4.0
"""Misfit from which on the attacker is taken for one of no type in the table.

In the mean over a run's blocks types of the table and their relatives are at 1 to 3 in the real
world, strangers that resemble none at 3 to 10: the own world is poorer than the real one.
"""

_LEAST = 0.05
"""Least standard deviation of a feature, in units of the normaliser: some hardly move."""

_FARTHEST = 5.0
"""Standard deviations beyond which no feature counts for more: none is to decide alone."""


@functools.partial(jax.jit, static_argnames="repeats")
def misfit(
    key: Key, own: OwnWorld, player: Player, view: OnlineView, repeats: int = 4
) -> jax.Array:
    """How far a block is from what the nearest type would have shown, from where the block began.

    A belief is over the types of a table; one that is on none of them is given to the nearest, with
    great confidence. So each type plays the block again in the own world, and the block's mean
    observation is held against theirs.

    Args:
        key: consumed.
        own: the server's own world.
        player: who played the block.
        view: the block.
        repeats: static, episodes of each type.

    Returns:
        f32[], of the nearest type the mean square, over features, of the distance in standard
        deviations, which are pooled over types: about 1 for a type of the own world itself, up to 2
        for one that varies more than the others.
    """
    seen = _mean(player, view.observation)

    def against(i):
        def one(r):
            key_r = jax.random.fold_in(jax.random.fold_in(key, i), r)
            key_start, key_environment, key_policies = jax.random.split(key_r, 3)
            start = own.at(key_start, i, view.before)
            _, played = rollout(
                key_environment, key_policies, own.game, own.game.prior[i], player,
                own.attacker(i), state=start, num_rounds=len(view.loss), responder=own.responder,
            )  # fmt: skip
            return _mean(player, played.defender.raw_obs)

        return jax.vmap(one)(jnp.arange(repeats))

    shown = against_likely(against, jnp.ones(len(own.game.prior), jnp.float32))  # [K, R, O]
    spread = jnp.sqrt(shown.var(axis=1, ddof=1).mean(axis=0))
    distance = (seen[None] - shown.mean(axis=1)) / jnp.maximum(spread, _LEAST)[None]
    return (jnp.clip(distance, -_FARTHEST, _FARTHEST) ** 2).mean(axis=1).min()


def _mean(player: Player, observations) -> jax.Array:
    """f32[O] of T observations, normalised."""
    return jax.vmap(lambda each: summary(player.normalizer(each)))(observations).mean(axis=0)
