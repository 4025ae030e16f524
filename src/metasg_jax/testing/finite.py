"""Finite Bayesian Stackelberg Markov games: tables, exact values, all episodes."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from metasg_jax.config import MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.game.bsmg import Step
from metasg_jax.game.rollout import Played, Player, Trajectory
from metasg_jax.policies import Categorical, Fixed
from metasg_jax.struct import Struct, field
from metasg_jax.testing.prior import TypeTable, type_table

MAX_EPISODES = 1 << 16
_CERTAIN = 40.0  # a logit so large that the softmax is one-hot in float32


class FiniteType(Struct):
    """One private type of a finite game. S states; A_D and A_A actions.

    Attributes:
        index: i32[].
        transition: f32[S, A_D, A_A, S], probabilities of the next state.
        reward_D: f32[S, A_D, A_A], the defender's.
        reward_A: f32[S, A_D, A_A], the attacker's.
    """

    index: jax.Array
    transition: jax.Array
    reward_D: jax.Array
    reward_A: jax.Array


class FiniteGame(Struct):
    """A game of tables; make it with :func:`finite_game`.

    Both players see the state, one-hot; the attacker acts first within a round, and the defender
    does not see its action. Actions are one-hot. Neither observation holds the type.

    Attributes:
        prior: the types and Q.
        initial: f32[S], probabilities of the first state, the same for all types.
        horizon: H, static.
        starts: static, the states that an episode can start in.
        successors: static, for each (s, a_D, a_A), in row-major order, the states that may follow
            under some type. What enumerations run over; arrays put in by ``replace`` must keep to
            it.
        random: static, whether the environment draws anything: a first or a next state.
    """

    prior: TypeTable
    initial: jax.Array
    horizon: int = field(static=True)
    starts: tuple[int, ...] = field(static=True)
    successors: tuple[tuple[int, ...], ...] = field(static=True)
    random: bool = field(static=True)

    @property
    def finite(self) -> bool:
        """True: actions are choices."""
        return True

    @property
    def num_states(self) -> int:
        """S."""
        return self.initial.shape[-1]

    @property
    def action_size(self) -> int:
        """A_D."""
        return self.prior.types.reward_D.shape[-2]

    @property
    def attacker_action_size(self) -> int:
        """A_A."""
        return self.prior.types.reward_D.shape[-1]

    @property
    def observation_spec(self) -> int:
        """S."""
        return self.num_states

    @property
    def attacker_observation_size(self) -> int:
        """S."""
        return self.num_states

    def reset(self, key, xi):
        """The first state, i32[]. ``key`` is consumed."""
        return jax.random.categorical(key, jnp.log(self.initial)).astype(jnp.int32)

    def observe_attacker(self, state, xi):
        """The state, one-hot f32[S]."""
        return jax.nn.one_hot(state, self.num_states)

    def attack(self, key, state, xi, action):
        """(the attacker's action, obs f32[S], state)."""
        return action, jax.nn.one_hot(state, self.num_states), state

    def defend(self, key, state, xi, received, action):
        """(next state, Step). ``key`` is consumed."""
        r_d = action @ xi.reward_D[state] @ received
        r_a = action @ xi.reward_A[state] @ received
        law = jnp.einsum("i,ijs,j->s", action, xi.transition[state], received)
        after = jax.random.categorical(key, jnp.log(law)).astype(jnp.int32)
        return after, Step(r_d, r_a, {"loss": -r_d, "diverged": jnp.zeros((), bool)})

    def exact_values(self, xi, defender: Player, attacker: Player, discount):
        """(J_D, J_A) of two players, f32[] each; see :func:`value`."""
        obs = jnp.eye(self.num_states, dtype=jnp.float32)
        pi_d = action_probabilities(defender, obs)
        return value(self, xi, pi_d, action_probabilities(attacker, obs), discount)

    def episodes(self, xi, defender: Player, attacker: Player, config: MetaConfig):
        """All episodes as the learner would have played them, and their probabilities.

        Returns:
            (trajectory with leading axis T, f32[T]); differentiable in both players' parameters.

        Raises:
            ValueError: where members of a group would share random transitions, which the
                enumeration takes to be independent; and beyond MAX_EPISODES.
        """
        if self.random and config.group_size > 1:
            raise ValueError(
                f"group_size = {config.group_size}: episodes of a group share this game's random "
                "transitions; enumerate with group_size = 1 and more groups"
            )
        played, environment = trajectories(self, xi)
        played = played.replace(
            defender=_seen(played.defender, defender), attacker=_seen(played.attacker, attacker)
        )
        return played, probability(played, environment, defender, attacker)

    def best_response(self, xi, defender: Player, attacker: Player, discount) -> Player:
        """The attacker with an exactly best Markov policy, the first action on ties.

        Raises:
            ValueError: where its policy can't hold a table.
        """
        obs = jnp.eye(self.num_states, dtype=jnp.float32)
        best = best_response_table(self, xi, action_probabilities(defender, obs), discount)
        if not isinstance(attacker.policy, Categorical) or attacker.policy.hidden:
            raise ValueError("best responses need a Categorical policy with hidden = ()")
        # relative to the first action's logit, which is 0
        logits = _CERTAIN * (best[:, 1:] - best[:, :1])
        return attacker.replace(params=jax.tree.map(lambda _: logits, attacker.params))


def finite_game(
    transition: ArrayLike,
    reward_D: ArrayLike,
    reward_A: ArrayLike,
    initial: ArrayLike,
    horizon: int,
    names: Sequence[str] = (),
    adaptive: Sequence[bool] = (),
    probabilities: Sequence[float] = (),
) -> FiniteGame:
    """A finite game from tables with a leading axis of K types.

    Args:
        transition: [K, S, A_D, A_A, S].
        reward_D: [K, S, A_D, A_A].
        reward_A: [K, S, A_D, A_A].
        initial: [S].
        horizon: H, at least 1.
        names: K strings.
        adaptive: K booleans; all true by default.
        probabilities: the prior Q; uniform by default.

    Raises:
        ConfigError: for shapes that don't fit, laws that don't sum to 1, rewards that aren't
            finite, and no types.
    """
    transition, reward_D, reward_A, initial = (
        np.asarray(a, np.float32) for a in (transition, reward_D, reward_A, initial)
    )
    shape = reward_D.shape
    if len(shape) != 4 or reward_A.shape != shape or transition.shape != (*shape, shape[1]):
        raise ConfigError(
            f"transition {transition.shape}, reward_D {shape}, reward_A {reward_A.shape}: "
            "[K, S, A_D, A_A, S] and twice [K, S, A_D, A_A]"
        )
    if initial.shape != shape[1:2]:
        raise ConfigError(f"initial {initial.shape}: [S] = ({shape[1]},)")
    if horizon < 1:
        raise ConfigError(f"horizon = {horizon!r}: at least 1 round")
    for name, law in (("transition", transition), ("initial", initial)):
        if (law < 0).any() or not np.allclose(law.sum(-1), 1.0, atol=1e-5):
            raise ConfigError(f"{name}: non-negative, of sum 1 along the last axis")
    types = [
        FiniteType(jnp.int32(0), jnp.asarray(p), jnp.asarray(d), jnp.asarray(a))
        for p, d, a in zip(transition, reward_D, reward_A, strict=True)
    ]
    possible = (transition > 0).any(axis=0).reshape(-1, shape[1])
    laws = (initial, transition) if horizon > 1 else (initial,)
    return FiniteGame(
        prior=type_table(types, names, adaptive, probabilities),
        initial=jnp.asarray(initial),
        horizon=horizon,
        starts=tuple(np.flatnonzero(initial > 0).tolist()),
        successors=tuple(tuple(np.flatnonzero(row).tolist()) for row in possible),
        random=any(bool(((law > 0) & (law < 1)).any()) for law in laws),
    )


def action_probabilities(player: Player, obs: jax.Array) -> jax.Array:
    """F32[S, A] of a player for each of the observations f32[S, O], as the game gives them."""

    def one(obs):
        obs = player.normalizer(obs)
        if player.greedy or isinstance(player.policy, Fixed):
            return player.policy.mode(player.params, obs)
        log_prob = functools.partial(player.policy.log_prob, player.params, obs)
        return jnp.exp(jax.vmap(log_prob)(jnp.eye(player.policy.action_size, dtype=jnp.float32)))

    return jax.vmap(one)(obs)


def value(game: FiniteGame, xi: FiniteType, pi_D: jax.Array, pi_A: jax.Array, discount):
    """(J_D, J_A) of two Markov policies, by forward recursion over the states' distribution.

    ``J = sum_t discount^(t-1) E r_t``, t = 1 .. H.

    Args:
        game: whose horizon and first state are read.
        xi: the type.
        pi_D: f32[S, A_D].
        pi_A: f32[S, A_A].
        discount: gamma.

    Returns:
        Two f32[], differentiable in both policies.
    """

    def step(carry, _):
        law, power = carry
        joint = law[:, None, None] * pi_D[:, :, None] * pi_A[:, None, :]
        rewards = jnp.stack([(joint * xi.reward_D).sum(), (joint * xi.reward_A).sum()])
        after = jnp.einsum("sij,sijk->k", joint, xi.transition)
        return (after, power * discount), power * rewards

    carry = (game.initial, jnp.ones_like(jnp.asarray(discount, pi_D.dtype)))
    carry = jax.tree.map(lambda a: a.astype(jnp.result_type(pi_D, pi_A)), carry)
    totals = jax.lax.scan(step, carry, None, length=game.horizon)[1].sum(axis=0)
    return totals[0], totals[1]


def best_response_table(game: FiniteGame, xi: FiniteType, pi_D: jax.Array, discount) -> jax.Array:
    """The best attack in each state, one-hot f32[S, A_A], the first on ties.

    By enumeration of the A_A^S deterministic policies: the players don't see the round, so there is
    no backward recursion. No randomised policy is better where no state is met twice or where one
    attack is best in every round, as in all games here.
    """
    S, A = game.num_states, game.attacker_action_size
    choices = np.stack(np.meshgrid(*[np.arange(A)] * S, indexing="ij"), -1).reshape(-1, S)
    tables = jax.nn.one_hot(choices, A)
    returns = jax.vmap(lambda pi_A: value(game, xi, pi_D, pi_A, discount)[1])(tables)
    return tables[jnp.argmax(returns)]


def count_trajectories(game: FiniteGame) -> int:
    """T, how many episodes are possible under some type, without listing them."""
    counts = np.zeros(game.num_states, dtype=object)
    counts[list(game.starts)] = 1
    pairs = game.action_size * game.attacker_action_size
    for _ in range(game.horizon - 1):
        after = np.zeros_like(counts)
        for i, successors in enumerate(game.successors):
            for s in successors:
                after[s] += counts[i // pairs]
        counts = after
    return int(counts.sum()) * pairs


def trajectories(game: FiniteGame, xi: FiniteType) -> tuple[Trajectory, jax.Array]:
    """All episodes, and the environment's part of their probabilities.

    The part of the players is :func:`probability`'s. The state after the last round is left out:
    nothing depends on it.

    Returns:
        (trajectory with leading axis T, observations not normalised; f32[T], the probability of
        the first state times those of the transitions).

    Raises:
        ValueError: beyond MAX_EPISODES, with the count.
    """
    count = count_trajectories(game)
    if count > MAX_EPISODES:
        raise ValueError(f"{count} episodes: too many to enumerate (at most {MAX_EPISODES})")
    states, a_d, a_a = _paths(
        game.starts,
        game.successors,
        game.action_size,
        game.attacker_action_size,
        game.horizon,
    )
    environment = game.initial[states[:, 0]]
    for t in range(game.horizon - 1):
        step = xi.transition[states[:, t], a_d[:, t], a_a[:, t], states[:, t + 1]]
        environment = environment * step
    obs = jax.nn.one_hot(states, game.num_states)
    action_d = jax.nn.one_hot(a_d, game.action_size)
    action_a = jax.nn.one_hot(a_a, game.attacker_action_size)
    r_d, r_a = xi.reward_D[states, a_d, a_a], xi.reward_A[states, a_d, a_a]
    info = {"loss": -r_d, "diverged": jnp.zeros(r_d.shape, bool)}
    defender = Played(obs, obs, action_d, action_d, r_d)
    attacker = Played(obs, obs, action_a, action_a, r_a)
    return Trajectory(defender, attacker, info), environment


def probability(
    played: Trajectory, environment: jax.Array, defender: Player, attacker: Player
) -> jax.Array:
    """F32[T] of each of the episodes under two players, differentiable in their parameters."""
    for side, player in ((played.defender, defender), (played.attacker, attacker)):
        shape = side.raw_obs.shape
        pi = action_probabilities(player, side.raw_obs.reshape(-1, shape[-1]))
        chosen = (pi.reshape(side.action.shape) * side.action).sum(axis=-1)
        environment = environment * chosen.prod(axis=-1)
    return environment


def _seen(side: Played, player: Player) -> Played:
    """The side with the observations as the player's policy sees them."""
    return side.replace(obs=jax.vmap(jax.vmap(player.normalizer))(side.raw_obs))


@functools.lru_cache(maxsize=64)
def _paths(starts, successors, num_d: int, num_a: int, horizon: int):
    """(states, defender's, attacker's actions), i32[T, H] each."""
    paths = [((s,), (), ()) for s in starts]
    for t in range(horizon):
        longer = []
        for states, a_d, a_a in paths:
            for i in range(num_d):
                for j in range(num_a):
                    last = t == horizon - 1
                    after = successors[(states[-1] * num_d + i) * num_a + j]
                    tails = [()] if last else [(s,) for s in after]
                    longer += [((*states, *tail), (*a_d, i), (*a_a, j)) for tail in tails]
        paths = longer
    return tuple(np.array(column, np.int32) for column in zip(*paths, strict=True))
