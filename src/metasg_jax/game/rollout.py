"""Playing episodes: a ``lax.scan`` over rounds, vmapped over rollouts."""

from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.struct import Struct, field
from metasg_jax.types import Game, Info, Key, Params, Policy


class Normalizer(Struct):
    """Running mean and variance of observations (Welford), frozen within a meta-step.

    Attributes:
        count: f32[], observations seen; nothing is normalised before the first.
        mean: f32[O].
        m2: f32[O], sum of squared deviations.
    """

    count: jax.Array
    mean: jax.Array
    m2: jax.Array

    def __call__(self, obs: jax.Array) -> jax.Array:
        """(obs - mean) / std, cut to [-5, 5]."""
        std = jnp.sqrt(self.m2 / jnp.maximum(self.count, 1.0))
        scaled = (obs - self.mean) / jnp.maximum(std, 1e-3)
        return jnp.where(self.count > 0, jnp.clip(scaled, -5.0, 5.0), obs)

    def update(self, obs: jax.Array, weights: jax.Array) -> "Normalizer":
        """Takes in observations f32[E, O] with weights f32[E] >= 0."""
        total = weights.sum()
        share = weights / jnp.maximum(total, 1e-12)
        mean = share @ obs
        m2 = weights @ (obs - mean[None]) ** 2
        count = self.count + total
        delta = mean - self.mean
        part = total / jnp.maximum(count, 1e-12)
        return Normalizer(
            count=count,
            mean=self.mean + delta * part,
            m2=self.m2 + m2 + delta**2 * self.count * part,
        )


def init_normalizer(size: int) -> Normalizer:
    """A normaliser that has seen nothing."""
    return Normalizer(jnp.zeros(()), jnp.zeros((size,)), jnp.zeros((size,)))


class Player(Struct):
    """A policy ready to play.

    Attributes:
        params: pytree.
        normalizer: of its observations.
        policy: static.
        greedy: static; plays its mode instead of sampling.
    """

    params: Params
    normalizer: Normalizer
    policy: Policy = field(static=True)
    greedy: bool = field(static=True, default=False)

    def act(self, key: Key, obs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(action f32[A], raw f32[A], normalised observation f32[O])."""
        obs = self.normalizer(obs)
        if self.greedy:
            action = self.policy.mode(self.params, obs)
            return action, action, obs
        action, raw = self.policy.sample(key, self.params, obs)
        return action, raw, obs


class Played(Struct):
    """One player's side of an episode; every leaf has a leading axis H.

    Attributes:
        obs: f32[H, O], normalised: what the policy saw.
        raw_obs: f32[H, O], as the game gave it: what the normaliser learns from.
        raw: f32[H, A], the policy's draw before squashing.
        action: f32[H, A] in [-1, 1].
        reward: f32[H].
    """

    obs: jax.Array
    raw_obs: jax.Array
    raw: jax.Array
    action: jax.Array
    reward: jax.Array


class Trajectory(Struct):
    """An episode: the paper's tau.

    Attributes:
        defender: the leader's side.
        attacker: the follower's side.
        info: scalars of each round, f32[H].
    """

    defender: Played
    attacker: Played
    info: Info


def rollout(
    key_environment: Key,
    key_policies: Key,
    game: Game,
    xi: Any,
    defender: Player,
    attacker: Player,
    *,
    state: Any = None,
    num_rounds: int | None = None,
) -> tuple[Any, Trajectory]:
    """Plays an episode, or a part of one.

    Args:
        key_environment: consumed; drives clients, batches and models. Rollouts that share it have
            common random numbers.
        key_policies: consumed; drives the policies' noise.
        game: the game.
        xi: the attacker's type; its indices must not be batched.
        defender: the leader.
        attacker: the follower; its actions are read by adaptive types only.
        state: where to start; a fresh episode by default.
        num_rounds: static; the game's horizon by default.

    Returns:
        (final state, trajectory).
    """
    key_reset, key_rounds = jax.random.split(key_environment)
    if state is None:
        state = game.reset(key_reset, xi)

    def play_round(state, t):
        key_attack, key_defend = jax.random.split(jax.random.fold_in(key_rounds, t))
        key_a, key_d = jax.random.split(jax.random.fold_in(key_policies, t))
        obs_a = game.observe_attacker(state, xi)
        action_a, raw_a, seen_a = attacker.act(key_a, obs_a)
        received, obs_d, state = game.attack(key_attack, state, xi, action_a)
        action_d, raw_d, seen_d = defender.act(key_d, obs_d)
        state, step = game.defend(key_defend, state, xi, received, action_d)
        trajectory = Trajectory(
            defender=Played(seen_d, obs_d, raw_d, action_d, step.defender_reward),
            attacker=Played(seen_a, obs_a, raw_a, action_a, step.attacker_reward),
            info=step.info,
        )
        return state, trajectory

    rounds = jnp.arange(game.horizon if num_rounds is None else num_rounds)
    return jax.lax.scan(play_round, state, rounds)


def rollout_groups(
    key: Key,
    game: Game,
    xi: Any,
    defender: Player,
    attacker: Player,
    num_groups: int,
    group_size: int,
) -> Trajectory:
    """Plays ``num_groups`` groups of ``group_size`` episodes.

    The members of a group share the environment's randomness, which is then drawn once for all.

    Returns:
        A trajectory with leading axes [num_groups, group_size, H].
    """

    def member(key_environment, key_policies):
        return rollout(key_environment, key_policies, game, xi, defender, attacker)[1]

    def group(key):
        key_environment, key_policies = jax.random.split(key)
        keys = jax.random.split(key_policies, group_size)
        return jax.vmap(member, in_axes=(None, 0))(key_environment, keys)

    return jax.vmap(group)(jax.random.split(key, num_groups))
