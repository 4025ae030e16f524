"""One whole episode against each type, with everything that the defender saw and did."""

import functools

import jax
import jax.numpy as jnp

from metasg_jax.evaluation.episodes import held_out
from metasg_jax.evaluation.metrics import Metrics, measure_deployed
from metasg_jax.evaluation.switching import Switch, second
from metasg_jax.game.rollout import Player, rollout
from metasg_jax.struct import Struct
from metasg_jax.types import Key


class Recorded(Struct):
    """One episode against each type; leaves have a leading axis K.

    Attributes:
        metrics: after round H.
        action: f32[K, H, A].
        observation: f32[K, H, O], as the game gave it.
    """

    metrics: Metrics
    action: jax.Array
    observation: jax.Array


@functools.partial(jax.jit, static_argnames="split")
def play_policy(
    key: Key,
    game,
    defender: Player,
    attackers: Player,
    split: str = "test",
    switch: Switch | None = None,
) -> Recorded:
    """Plays one defender against each type.

    An episode draws its randomness from ``key`` as :func:`~.episodes.score_actions` does, so that
    the two are paired: the same model, clients and batches.

    Args:
        key: consumed.
        game: the FL game.
        defender: one policy for all types.
        attackers: parameters stacked over K.
        split: ``test`` or ``validation``, static.
        switch: types that change in mid-run; scores are then against the second.
    """

    def against(_, scanned):
        i, params = scanned
        final, later = second(game, i, switch)
        # all types share the episode's random numbers, hence the clone
        key_play, key_deploy = jax.random.split(jax.random.clone(key))
        key_environment, key_policies = jax.random.split(key_play)
        state, played = rollout(
            key_environment, key_policies, game, game.prior[i], defender,
            attackers.replace(params=params), later=later,
        )  # fmt: skip
        deployed, _ = game.deploy(key_deploy, state.w, played.defender.action[-1])
        images, labels = held_out(game, split)
        metrics = measure_deployed(game.model, deployed, images, labels, final, state.diverged)
        return None, Recorded(metrics, played.defender.action, played.defender.raw_obs)

    types = jnp.arange(len(game.prior), dtype=jnp.int32)
    return jax.lax.scan(against, None, (types, attackers.params))[1]
