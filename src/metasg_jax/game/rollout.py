"""Playing episodes: a ``lax.scan`` over rounds, vmapped over rollouts."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.fl.axes import over_rollouts
from metasg_jax.numerics import largest_divisor
from metasg_jax.struct import Struct, field
from metasg_jax.types import Game, Info, Key, Params, Policy


class Normalizer(Struct):
    """Running mean and variance of observations (Welford), frozen within a meta-step.

    Of each number along an observation's last axis: the clients of a view share theirs. Leaves that
    hold no floats pass as they are.

    Attributes:
        count: f32[], observations seen; nothing is normalised before the first.
        mean: of the observation's structure, f32[O] a leaf.
        m2: likewise, sum of squared deviations.
    """

    count: jax.Array
    mean: Any
    m2: Any

    def __call__(self, obs: Any) -> Any:
        """(obs - mean) / std, cut to [-5, 5]."""

        def scale(leaf, mean, m2):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                return leaf
            std = jnp.sqrt(m2 / jnp.maximum(self.count, 1.0))
            scaled = (leaf - along_last(mean, leaf)) / along_last(jnp.maximum(std, 1e-3), leaf)
            return jnp.where(self.count > 0, jnp.clip(scaled, -5.0, 5.0), leaf)

        return jax.tree.map(scale, obs, self.mean, self.m2)

    def update(self, obs: Any, weights: jax.Array) -> "Normalizer":
        """Takes in observations, leaves f32[E, .., O], with weights f32[E] >= 0."""
        total = weights.sum()
        count = self.count + total
        part = total / jnp.maximum(count, 1e-12)

        def learn(leaf, old_mean, old_m2):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                return old_mean, old_m2
            rows = leaf.reshape(-1, leaf.shape[-1])
            several = rows.shape[0] // weights.shape[0]
            each = jnp.repeat(weights / several, several)
            mean = each / jnp.maximum(total, 1e-12) @ rows
            m2 = each @ (rows - mean[None]) ** 2
            delta = mean - old_mean
            return old_mean + delta * part, old_m2 + m2 + delta**2 * self.count * part

        treedef = jax.tree.structure(obs)
        learned = [
            learn(*leaves)
            for leaves in zip(*map(jax.tree.leaves, (obs, self.mean, self.m2)), strict=True)
        ]
        means, m2s = zip(*learned, strict=True)
        return Normalizer(count, treedef.unflatten(means), treedef.unflatten(m2s))


def along_last(values: jax.Array, like: jax.Array) -> jax.Array:
    """f32[O] with as many axes as ``like`` has, along its last."""
    return values.reshape((1,) * (like.ndim - 1) + values.shape)


def as_shapes(spec: Any) -> Any:
    """A pytree of ShapeDtypeStructs, of one or of O, which stands for an observation f32[O]."""
    return jax.ShapeDtypeStruct((spec,), jnp.float32) if isinstance(spec, int) else spec


def init_normalizer(spec: Any) -> Normalizer:
    """A normaliser that has seen nothing, for observations of these shapes.

    Args:
        spec: O of an observation f32[O], or a pytree of ShapeDtypeStructs.
    """

    def nothing():
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[-1:], jnp.float32), as_shapes(spec))

    return Normalizer(jnp.zeros((), jnp.float32), nothing(), nothing())


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

    def of(self, i) -> "Player":
        """Number ``i`` of several, whose parameters are stacked: a type's attacker."""
        return self.replace(params=jax.tree.map(lambda leaf: leaf[i], self.params))

    def mode(self, obs: jax.Array) -> jax.Array:
        """What its policy would rather play than anything else, f32[A], on an observation as the
        game gives it.
        """
        return self.policy.mode(self.params, self.normalizer(obs))

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
    later: tuple[Any, jax.Array] | None = None,
    override: Callable[[Any, Any, jax.Array], jax.Array] | None = None,
    responder: Any = None,
    credits: bool = False,
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
        later: (another type, i32[] the round from which the attacker is that one), its indices not
            batched either; the attacks' own states go on.
        override: ``(state, xi, action) -> action``, what is played in place of the defender's
            choice, by somebody who sees the whole state: a control that is told the truth.
        responder: of :data:`metasg_jax.responders.RESPONDERS`, an attacker who knows the defender
            and sees the whole state; it chooses what to send, whatever ``attacker`` plays.
        credits: static; whether ``info["credit"]`` f32[n] says what each client earned the defender
            by being kept (see :meth:`metasg_jax.game.bsmg.FLGame.credits`).

    Returns:
        (final state, trajectory).

    Example:
        >>> from metasg_jax.config import MetaConfig
        >>> from metasg_jax.learning.state import attacker_player, defender_player, init_state
        >>> from metasg_jax.testing import bandit
        >>> game, config = bandit(horizon=4), MetaConfig()
        >>> learner = init_state(jax.random.key(0), game, config)
        >>> defender = defender_player(learner, game, config)
        >>> attacker = attacker_player(learner, game, config, 0)
        >>> keys = jax.random.split(jax.random.key(1))
        >>> _, played = rollout(*keys, game, game.prior[0], defender, attacker)
        >>> played.defender.reward.shape
        (4,)
    """
    key_reset, key_rounds = jax.random.split(key_environment)
    if state is None:
        state = game.reset(key_reset, xi)
    first = xi

    def decide(before, xi, obs_d):
        """What a responder expects of the defender."""
        choice = defender.mode(obs_d)
        return choice if override is None else override(before, xi, choice)

    def play_round(state, t):
        xi = first if later is None else _choose(t < later[1], first, later[0])
        key_attack, key_defend = jax.random.split(jax.random.fold_in(key_rounds, t))
        key_a, key_d = jax.random.split(jax.random.fold_in(key_policies, t))
        obs_a = game.observe_attacker(state, xi)
        action_a, raw_a, seen_a = attacker.act(key_a, obs_a)
        before = state
        if responder is None:
            received, obs_d, state = game.attack(key_attack, state, xi, action_a)
        else:
            received, obs_d, state = responder(
                key_attack, game, state, xi, defender, functools.partial(decide, state, xi)
            )
        action_d, raw_d, seen_d = defender.act(key_d, obs_d)
        if override is not None:
            action_d = override(before, xi, action_d)
        sent_out = state
        state, step = game.defend(key_defend, state, xi, received, action_d)
        info = step.info
        if credits:
            key_again = jax.random.clone(key_defend)
            fl_game: Any = game  # no other kind of game has clients
            credit = fl_game.credits(key_again, sent_out, xi, received, action_d)
            info = {**info, "credit": credit}
        trajectory = Trajectory(
            defender=Played(seen_d, obs_d, raw_d, action_d, step.defender_reward),
            attacker=Played(seen_a, obs_a, raw_a, action_a, step.attacker_reward),
            info=info,
        )
        return state, trajectory

    rounds = jnp.arange(game.horizon if num_rounds is None else num_rounds)
    return jax.lax.scan(play_round, state, rounds)


def _choose(condition, a, b):
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def rollout_groups(
    key: Key,
    game: Game,
    xi: Any,
    defender: Player,
    attacker: Player,
    num_groups: int,
    group_size: int,
    at_once: int = 0,
    credits: bool = False,
    responder: Any = None,
) -> Trajectory:
    """Plays ``num_groups`` groups of ``group_size`` episodes.

    The members of a group share the environment's randomness, which is then drawn once for all.

    Args:
        key: consumed.
        game: the game.
        xi: the attacker's type; its indices must not be batched.
        defender: the leader.
        attacker: the follower.
        num_groups: static.
        group_size: static.
        at_once: static, the most episodes to play side by side; 0 plays them all so. The batch is
            then played in equal parts, one after another, see :func:`parts`. It changes memory and
            speed, and results by rounding only.
        credits: static, see :func:`rollout`.
        responder: of the attackers, see :func:`rollout`.

    Returns:
        A trajectory with leading axes [num_groups, group_size, H].
    """

    def member(key_environment, key_policies):
        return rollout(
            key_environment,
            key_policies,
            game,
            xi,
            defender,
            attacker,
            credits=credits,
            responder=responder,
        )[1]

    return map_groups(member, key, num_groups, group_size, at_once)


def map_groups(member, key: Key, num_groups: int, group_size: int, at_once: int = 0):
    """``member(key_environment, key_policies)`` for each member of each group, in :func:`parts`.

    Devices of the mesh's axis ``rollouts`` play a block of the batch each.

    Args:
        member: returns a pytree; the members of a group get the same first key.
        key: consumed.
        num_groups: static.
        group_size: static.
        at_once: static, on a device.

    Returns:
        member's results with leading axes [num_groups, group_size].
    """

    def block(first_group, first_member, num_groups, group_size):
        groups, members = parts(num_groups, group_size, at_once)

        # keys by fold_in of counters, innermost: a loop may not use up a key from outside
        def group(i):
            def each(j):
                key_group = jax.random.fold_in(key, first_group + i)
                key_environment, key_policies = jax.random.split(key_group)
                return member(key_environment, jax.random.fold_in(key_policies, first_member + j))

            return map_at_once(each, group_size, members)

        return map_at_once(group, num_groups, groups)

    return over_rollouts(block, num_groups, group_size)


def parts(num_groups: int, group_size: int, at_once: int) -> tuple[int, int]:
    """How many groups, and members of each, are played side by side: (groups, members).

    Whole groups where one fits, because their members share work; both numbers are divisors, so
    that no episode is played for nothing: of 6 groups at most 4 at once are 3.

    Example:
        >>> parts(6, 4, 0), parts(6, 4, 16), parts(6, 4, 3), parts(7, 4, 16)
        ((6, 4), (3, 4), (1, 2), (1, 4))
    """
    if not 0 < at_once < num_groups * group_size:
        return num_groups, group_size
    if at_once < group_size:
        return 1, largest_divisor(group_size, at_once)
    return largest_divisor(num_groups, at_once // group_size), group_size


def map_at_once(fun, count: int, at_once: int):
    """``fun`` of 0 .. count - 1, ``at_once`` side by side; results with a leading axis count."""
    if count == 1:  # a vmap less is seconds less to trace
        return jax.tree.map(lambda leaf: leaf[None], fun(jnp.int32(0)))
    counter = jnp.arange(count, dtype=jnp.int32)
    if at_once == count:
        return jax.vmap(fun)(counter)
    return jax.lax.map(fun, counter, batch_size=at_once if at_once > 1 else None)
