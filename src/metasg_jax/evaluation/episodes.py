"""Playing one defender against every type, measured on held-out images."""

import functools

import jax
import jax.numpy as jnp

from metasg_jax.evaluation.metrics import Metrics, measure_deployed
from metasg_jax.evaluation.switching import Switch, second
from metasg_jax.game.rollout import Player, init_normalizer, rollout
from metasg_jax.policies import Fixed
from metasg_jax.struct import Struct
from metasg_jax.types import Key

# images read along an episode; the end of it reads them all
_CURVE_IMAGES = 2000


class Outcome(Struct):
    """What defenders reached; every leaf has leading axes [K, J] (types, defenders).

    Attributes:
        final: metrics after round H.
        accuracy: f32[K, J, P], on a part of the images, along the episode.
        asr: f32[K, J, P], attack success on those; NaN without a backdoor.
        rounds: i32[K, J, P], the rounds of those points.
        action: f32[K, J, A], the mean action.
    """

    final: Metrics
    accuracy: jax.Array
    asr: jax.Array
    rounds: jax.Array
    action: jax.Array


@functools.partial(jax.jit, static_argnames=("split", "num_points"))
def play_types(
    key: Key,
    game,
    defenders: Player,
    attackers: Player,
    split: str = "test",
    num_points: int = 10,
) -> Outcome:
    """Plays one episode of each defender against each type and measures the deployed copy.

    Types and defenders share the environment's randomness, as do all calls with the same ``key``:
    comparisons are paired.

    Args:
        key: consumed.
        game: the FL game.
        defenders: parameters stacked over K and J: each of J defenders may have a policy a type.
        attackers: parameters stacked over K.
        split: ``test`` or ``validation``, static.
        num_points: of the curves, static.
    """
    images, labels = held_out(game, split)

    def episode(_, scanned):
        i, defender_params, attacker_params = scanned
        xi, attacker = game.prior[i], attackers.replace(params=attacker_params)

        def one(params):
            defender = defenders.replace(params=params)
            # cloned, because all episodes and all points are to share them
            return play_one(
                jax.random.clone(key), game, xi, defender, attacker, images, labels, num_points
            )

        return None, jax.vmap(one)(defender_params)

    counter = jnp.arange(len(game.prior), dtype=jnp.int32)
    return jax.lax.scan(episode, None, (counter, defenders.params, attackers.params))[1]


@functools.partial(jax.jit, static_argnames="split")
def score_actions(
    key: Key,
    game,
    actions: jax.Array,
    post_levels: jax.Array,
    attackers: Player,
    split: str,
    switch: Switch | None = None,
) -> jax.Array:
    """Scores of constant actions, for a grid search.

    The post-training defence acts on a copy at the end only, so its axis costs no episode.

    Args:
        key: consumed.
        game: with a steered rule.
        actions: f32[E, A]; the last entry is replaced by each of the levels, where it is the
            post-training defence's.
        post_levels: f32[L].
        attackers: parameters stacked over K.
        split: ``validation`` or ``test``.
        switch: types that change in mid-run; scores are then against the second.

    Returns:
        f32[K, E, L].
    """
    images, labels = held_out(game, split)
    key_play, key_deploy = jax.random.split(key)
    key_environment, key_policies = jax.random.split(key_play)
    policy, normalizer = Fixed(game.action_size), init_normalizer(game.observation_spec)

    def against(_, scanned):
        i, attacker_params = scanned
        xi, attacker = game.prior[i], attackers.replace(params=attacker_params)
        final, later = second(game, i, switch)

        def one(action):
            defender = Player(action, normalizer, policy, greedy=True)
            # cloned, because all episodes are to share them
            keys = jax.random.clone(key_environment), jax.random.clone(key_policies)
            state, _ = rollout(*keys, game, xi, defender, attacker, later=later)

            def at(level):
                key = jax.random.clone(key_deploy)
                turned = action.at[-1].set(level) if game.post_defense.action_spec else action
                deployed, _ = game.deploy(key, state.w, turned)
                return measure_deployed(
                    game.model, deployed, images, labels, final, state.diverged
                ).score

            return jax.lax.map(at, post_levels)

        return None, jax.vmap(one)(actions)

    counter = jnp.arange(len(game.prior), dtype=jnp.int32)
    return jax.lax.scan(against, None, (counter, attackers.params))[1]


def play_one(key, game, xi, defender, attacker, images, labels, num_points) -> Outcome:
    """One episode, cut into ``num_points`` parts of almost equal length."""
    key_environment, key_policies, key_deploy = jax.random.split(key, 3)
    part = max(1, game.horizon // num_points)
    num_parts, rest = divmod(game.horizon, part)
    few = min(_CURVE_IMAGES, images.shape[0])
    state = game.reset(jax.random.fold_in(key_environment, num_parts + 1), xi)

    def measured(state, action, count):
        deployed, _ = game.deploy(jax.random.clone(key_deploy), state.w, action)
        return measure_deployed(
            game.model, deployed, images[:count], labels[:count], xi, state.diverged
        )

    def stretch(state, k, num_rounds):
        state, played = rollout(
            jax.random.fold_in(key_environment, k),
            jax.random.fold_in(key_policies, k),
            game, xi, defender, attacker, state=state, num_rounds=num_rounds,
        )  # fmt: skip
        action = played.defender.action
        here = measured(state, action[-1], few)
        return state, (here.accuracy, here.asr, state.round, action.mean(axis=0))

    state, (accuracy, asr, rounds, actions) = jax.lax.scan(
        lambda s, k: stretch(s, k, part), state, jnp.arange(num_parts)
    )
    if rest:
        state, _ = stretch(state, num_parts, rest)
    final = measured(state, state.previous_action, images.shape[0])
    return Outcome(final, accuracy, asr, rounds, actions.mean(axis=0))


def held_out(game, split: str) -> tuple[jax.Array, jax.Array]:
    """Images u8[T, h, w, c] and labels of the ``test`` or the ``validation`` split."""
    if split == "test":
        return game.test_x, game.test_y
    return game.validation_x, game.validation_y


def standing_still(action_size: int, observation_spec) -> Player:
    """Who plays the centre of its knobs, whatever it sees."""
    action = jnp.zeros((action_size,), jnp.float32)
    return Player(action, init_normalizer(observation_spec), Fixed(action_size), greedy=True)
