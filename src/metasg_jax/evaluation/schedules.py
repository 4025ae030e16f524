"""Whole episodes for the controls: a policy's, recorded; and given actions, whatever is seen.

A control that must not react plays a *schedule*, actions f32[H, A] fixed beforehand: a constant,
the actions of two phases, or what a policy did in another episode (its input swapped). All
functions draw an episode's randomness from their key in the same way, so that whatever is played
with one key is paired: the same model, clients, batches.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.evaluation.episodes import held_out, standing_still
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

    Args:
        key: consumed.
        game: the FL game.
        defender: one policy for all types.
        attackers: parameters stacked over K.
        split: ``test`` or ``validation``, static.
        switch: types that change in mid-run; scores are then against the second.
    """
    several = jax.tree.map(lambda leaf: leaf[None], defender)
    played = play_policies(key, game, several, attackers, split, switch)
    return jax.tree.map(lambda leaf: leaf[:, 0], played)


@functools.partial(jax.jit, static_argnames=("split", "per_type"))
def play_policies(
    key: Key,
    game,
    defenders: Player,
    attackers: Player,
    split: str = "test",
    switch: Switch | None = None,
    per_type: bool = False,
) -> Recorded:
    """Plays several defenders of one kind against each type, side by side.

    Args:
        key: consumed.
        game: the FL game.
        defenders: parameters and normalisers stacked over T, policies trained on different seeds,
            say; with ``per_type`` the parameters over K and T.
        attackers: parameters stacked over K.
        split: ``test`` or ``validation``, static.
        switch: as in :func:`play_policy`.
        per_type: static.

    Returns:
        Leaves with leading axes [K, T].
    """

    def against(_, scanned):
        i, params, own = scanned
        mine = defenders.replace(params=own) if per_type else defenders

        def one(defender):
            attacker = attackers.replace(params=params)
            metrics, played = _episode(key, game, i, defender, attacker, split, switch)
            return Recorded(metrics, played.defender.action, played.defender.raw_obs)

        return None, jax.vmap(one)(mine)

    own = defenders.params if per_type else None
    return jax.lax.scan(against, None, (_counter(game), attackers.params, own))[1]


@functools.partial(jax.jit, static_argnames="split")
def play_schedules(
    key: Key,
    game,
    schedules: jax.Array,
    attackers: Player,
    split: str = "test",
    switch: Switch | None = None,
) -> Metrics:
    """Plays given actions against each type.

    Args:
        key: consumed.
        game: the FL game.
        schedules: f32[K, J, H, A], J of them for each type.
        attackers: parameters stacked over K.
        split: ``test`` or ``validation``, static.
        switch: as in :func:`play_policy`.

    Returns:
        Metrics with leaves [K, J].
    """
    nobody = standing_still(game.action_size, game.observation_spec)

    def against(_, scanned):
        i, params, mine = scanned
        attacker = attackers.replace(params=params)

        def one(schedule):
            return _episode(key, game, i, nobody, attacker, split, switch, schedule)[0]

        return None, jax.vmap(one)(mine)

    return jax.lax.scan(against, None, (_counter(game), attackers.params, schedules))[1]


def _episode(key, game, i, defender, attacker, split, switch, schedule=None):
    # the keys of score_actions, so that a constant schedule is one of its actions; cloned, because
    # all episodes are to share them
    final, later = second(game, i, switch)
    key_play, key_deploy = jax.random.split(jax.random.clone(key))
    key_environment, key_policies = jax.random.split(key_play)
    state, played = rollout(
        key_environment, key_policies, game, game.prior[i], defender, attacker,
        schedule=schedule, later=later,
    )  # fmt: skip
    deployed, _ = game.deploy(key_deploy, state.w, played.defender.action[-1])
    images, labels = held_out(game, split)
    metrics = measure_deployed(game.model, deployed, images, labels, final, state.diverged)
    return metrics, played


def _counter(game) -> jax.Array:
    return jnp.arange(len(game.prior), dtype=jnp.int32)


def constant(actions: np.ndarray, horizon: int) -> np.ndarray:
    """Schedules f32[K, H, A] of one action f32[K, A] for each type."""
    actions = np.asarray(actions, np.float32)
    return np.repeat(actions[:, None], horizon, axis=1)


def swapped(actions: np.ndarray) -> np.ndarray:
    """What a policy did against the next type of the table, f32[K, H, A] of f32[K, H, A].

    The actions that it would take if it were shown another type's observations.
    """
    return np.roll(actions, -1, axis=0)


def shuffled(rng: np.random.Generator, actions: np.ndarray) -> np.ndarray:
    """A policy's own actions f32[K, H, A] in random order in time, another one for each type."""
    return np.stack([mine[rng.permutation(len(mine))] for mine in actions])


def two_phase(first: np.ndarray, then: np.ndarray, rounds: int, horizon: int) -> np.ndarray:
    """Schedules f32[K, H, A]: ``first`` f32[A] for some rounds, ``then`` f32[K, A] afterwards."""
    schedules = constant(then, horizon)
    schedules[:, :rounds] = first
    return schedules


def phase_features(observations: np.ndarray, rounds: int) -> np.ndarray:
    """What the first rounds showed, f64[.., 2 O] of observations [.., H, O]: mean, and the last."""
    start = np.asarray(observations, np.float64)[..., :rounds, :]
    return np.concatenate([start.mean(axis=-2), start[..., -1, :]], axis=-1)
