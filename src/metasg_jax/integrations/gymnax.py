"""The defender's side of the game as a gymnax environment (1.0 or later): docs/other_learners.md.

Pure, jittable, vmappable; it resets itself at the end of an episode, as all of gymnax do.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

try:
    from gymnax.environments import spaces
    from gymnax.environments.environment import Environment
except ImportError as error:
    raise ImportError("gymnax is missing: pip install 'metasg-jax[gymnax]'") from error

from metasg_jax.evaluation.episodes import standing_still
from metasg_jax.game.bsmg import FLGame, GameState
from metasg_jax.game.rollout import Player
from metasg_jax.integrations.vectors import require_vectors
from metasg_jax.struct import Struct
from metasg_jax.types import Info, Key, Received


class EnvParams(Struct):
    """What is played; a pytree, so that another world of the same shapes does not recompile.

    Attributes:
        game: the FL game.
        attackers: who turns the attackers' knobs; parameters stacked over the K types.
    """

    game: FLGame
    attackers: Player

    @property
    def max_steps_in_episode(self) -> int:
        """H, rounds of an episode."""
        return self.game.horizon


class EnvState(Struct):
    """The clients of a round have answered, the server has not decided yet.

    Attributes:
        game: the game's state.
        type: i32[], the attacker's hidden type; no observation tells it.
        received: what the server holds.
        observation: f32[O], what the defender sees.
    """

    game: GameState
    type: jax.Array
    received: Received
    observation: jax.Array

    @property
    def time(self) -> jax.Array:
        """i32[], rounds done."""
        return self.game.round


class DefenderEnv(Environment[EnvState, EnvParams]):
    """One defender against a type that is drawn from the prior at each reset.

    A step is a round. Actions are f32[A] in [-1, 1], the knobs ``game.action_names``; observations
    f32[O]; rewards ``r_D``. An episode terminates after H rounds and is never truncated: the
    observation says how much of it is left, so nothing is to be bootstrapped beyond it.

    Under ``vmap`` the types of several environments differ, so each round runs the attacks of all
    kinds of the prior and keeps one: a prior of few kinds is faster. ``jax_debug_key_reuse`` takes
    it for reuse that they have one key; no two results of it are used.

    Args:
        game: with a rule or a post-training defence to steer, whose observation is a vector.
        attackers: parameters stacked over the K types; by default their knobs stand still.

    Raises:
        ConfigError: where there is nothing to steer, or the observation is a view of the clients.

    Example:
        >>> from metasg_jax.testing import tiny_game
        >>> env = DefenderEnv(tiny_game())
        >>> obs, state = env.reset(jax.random.key(0))
        >>> step = env.step(jax.random.key(1), state, jnp.zeros(env.num_actions))
        >>> obs.shape == step[0].shape, float(step[2]) < 0
        (True, True)
    """

    def __init__(self, game: FLGame, attackers: Player | None = None):
        require_vectors(game)
        self._params = EnvParams(game, attackers or all_standing_still(game))

    @property
    def default_params(self) -> EnvParams:
        """The game that the environment was made of."""
        return self._params

    @property
    def num_actions(self) -> int:
        """A, knobs of an action."""
        return self._params.game.action_size

    def action_space(self, params: EnvParams | None = None) -> spaces.Box:
        """[-1, 1]^A."""
        return spaces.Box(-1.0, 1.0, ((params or self._params).game.action_size,))

    def observation_space(self, params: EnvParams | None = None) -> spaces.Box:
        """R^O."""
        size = (params or self._params).game.observation_spec
        return spaces.Box(-jnp.inf, jnp.inf, (size,))

    @partial(jax.jit, static_argnames=("self",))
    def step(self, key: Key, state: EnvState, action: jax.Array, params: EnvParams | None = None):
        """A round, and a reset after the last: as ``Environment.step``, in half the time.

        That one plays a round of a fresh episode beside each step, to throw it away; here the fresh
        model is chosen before the clients train, so that they do so once.

        Args:
            key: consumed; typed or not.
            state: of :meth:`reset` or this.
            action: f32[A], clipped to [-1, 1].
            params: another game of the same shapes.

        Returns:
            (observation f32[O], state, reward f32[], terminated bool[], truncated bool[], info).
            ``info["final_observation"]`` is that of the action where the episode is over: after the
            last round nobody answers.
        """
        params = self._params if params is None else params
        key_step, key_reset = jax.random.split(typed(key))
        key_defend, key_attack = jax.random.split(key_step)
        after, reward, terminated, info = _defend(key_defend, state, action, params)
        key_fresh, key_first = jax.random.split(key_reset)
        fresh, fresh_type = _begin(key_fresh, params)
        game, kind, luck = _choose(
            terminated,
            (fresh, fresh_type, jax.random.key_data(key_first)),
            (after, state.type, jax.random.key_data(key_attack)),
        )
        obs, state_out = _attack(jax.random.wrap_key_data(luck), game, kind, params)
        truncated = jnp.zeros((), bool)
        last = jnp.where(terminated, state.observation, obs)
        ends = {"terminated": terminated, "truncated": truncated, "final_observation": last}
        return obs, state_out, reward, terminated, truncated, {**info, **ends}

    def step_env(self, key: Key, state: EnvState, action: jax.Array, params: EnvParams):
        """A round without a reset: (observation, state, reward, terminated, info).

        After the last round one more is answered, so that shapes agree.
        """
        key_defend, key_attack = jax.random.split(typed(key))
        after, reward, terminated, info = _defend(key_defend, state, action, params)
        obs, state = _attack(key_attack, after, state.type, params)
        return obs, state, reward, terminated, info

    def reset_env(self, key: Key, params: EnvParams) -> tuple[jax.Array, EnvState]:
        """Draws a type and a model, and lets the clients of the first round answer."""
        key_begin, key_attack = jax.random.split(typed(key))
        game, kind = _begin(key_begin, params)
        return _attack(key_attack, game, kind, params)

    def observe(self, key: Key, state: EnvState, action, params: EnvParams) -> jax.Array:
        """f32[O]; neither ``key`` nor ``action`` is read."""
        return state.observation

    def is_terminated(self, state: EnvState, params: EnvParams) -> jax.Array:
        """bool[]: whether all H rounds have been played."""
        return state.time >= params.game.horizon

    def is_truncated(self, state: EnvState, params: EnvParams) -> jax.Array:
        """bool[], false."""
        return jnp.zeros((), bool)


def all_standing_still(game: FLGame) -> Player:
    """Attackers whose knobs stay in the middle, stacked over the K types."""
    still = standing_still(game.attacker_action_size, game.attacker_observation_size)
    return still.replace(params=jnp.zeros((len(game.prior), *still.params.shape), jnp.float32))


def typed(key: jax.Array) -> Key:
    """A key of ``jax.random.key``, of one that may be of ``jax.random.PRNGKey``."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(key)


def _begin(key: Key, params: EnvParams) -> tuple[GameState, jax.Array]:
    """(state of the game before the first round, i32[] the type)."""
    game = params.game
    key_type, key_game = jax.random.split(key)
    kind = jax.random.choice(key_type, len(game.prior), p=game.prior.probabilities)
    kind = kind.astype(jnp.int32)
    return game.reset(key_game, game.prior[kind]), kind


def _attack(
    key: Key, state: GameState, kind: jax.Array, params: EnvParams
) -> tuple[jax.Array, EnvState]:
    """The attacker acts and the clients answer: (the defender's observation, state)."""
    game = params.game
    key_policy, key_clients = jax.random.split(key)
    xi = game.prior[kind]
    action, _, _ = params.attackers.of(kind).act(key_policy, game.observe_attacker(state, xi))
    received, obs, state = game.attack(key_clients, state, xi, action)
    return obs, EnvState(state, kind, received, obs)


def _defend(
    key: Key, state: EnvState, action: jax.Array, params: EnvParams
) -> tuple[GameState, jax.Array, jax.Array, Info]:
    """The server aggregates: (state of the game, reward f32[], whether that was all, info)."""
    game = params.game
    # learners may squeeze an action of one knob
    action = jnp.clip(jnp.reshape(action, (game.action_size,)).astype(jnp.float32), -1.0, 1.0)
    after, step = game.defend(key, state.game, game.prior[state.type], state.received, action)
    terminated = after.round >= game.horizon
    return after, step.defender_reward, terminated, step.info


def _choose(condition: jax.Array, a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
