"""The game as a PettingZoo parallel environment of two agents: see docs/other_learners.md."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

try:
    from gymnasium.spaces import Box
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise ImportError("PettingZoo is missing: pip install 'metasg-jax[pettingzoo]'") from error

from metasg_jax.config.checks import require, require_seed
from metasg_jax.game.bsmg import FLGame, GameState
from metasg_jax.integrations.vectors import require_vectors

DEFENDER, ATTACKER = "defender", "attacker"


class FederationEnv(ParallelEnv):
    """``defender`` against ``attacker``, whose type is drawn from the prior at each reset.

    The defender moves second: it sees what the attacker made the clients send. So a step is half a
    round, and an episode 2H steps. In the first half the attacker's action is read, in the second
    the defender's; ``infos[agent]["acts"]`` says whose action the next step reads, and the other's
    may be anything, or missing. Both are paid after the second half, 0 after the first. After 2H
    steps both terminate; nothing is ever truncated.

    The defender observes f32[O] of the game: of the round that it decides about; before the first
    one zeros. The attacker observes f32[O_A], then its type, one-hot f32[K]. Actions are knobs,
    f32[A] in [-1, 1]; what is outside is clipped.

    Args:
        game: with a rule or a post-training defence to steer, whose observation is a vector.

    Raises:
        ConfigError: where there is nothing to steer, or the observation is a view of the clients.

    Example:
        >>> from metasg_jax.testing import tiny_game
        >>> env = FederationEnv(tiny_game())
        >>> observations, infos = env.reset(seed=0)
        >>> while env.agents:
        ...     actions = {agent: env.action_space(agent).sample() for agent in env.agents}
        ...     observations, rewards, terminations, truncations, infos = env.step(actions)
        >>> rewards["defender"] < 0
        True
    """

    metadata = {"name": "metasg_jax_federation_v0", "render_modes": []}  # noqa: RUF012

    def __init__(self, game: FLGame):
        require_vectors(game)
        self.game = game
        self.possible_agents = [DEFENDER, ATTACKER]
        self.agents: list[str] = []
        self.render_mode = None
        sizes = {
            DEFENDER: (game.observation_spec, game.action_size),
            ATTACKER: (
                game.attacker_observation_size + len(game.prior),
                game.attacker_action_size,
            ),
        }
        # agents are to be given the same objects each time: who samples has seeded them
        self.observation_spaces = {a: Box(-np.inf, np.inf, (o,)) for a, (o, _) in sizes.items()}
        self.action_spaces = {a: Box(-1.0, 1.0, (n,)) for a, (_, n) in sizes.items()}
        self._luck = np.random.default_rng()

    def observation_space(self, agent: str) -> Box:
        """R^O of an agent."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Box:
        """[-1, 1]^A of an agent."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None):
        """A fresh model, a hidden type, the first round's clients.

        Args:
            seed: in [0, 2^32); the same one gives the same episodes from here on. Without one the
                episodes go on where they were.
            options: ``{"type": name}`` plays that type of the prior; other entries are not read.

        Returns:
            (observations, infos), dicts by agent. The attacker's info has its ``type``.

        Raises:
            ConfigError: for a seed out of range, or a type that is not in the prior.
        """
        if seed is not None:
            require_seed("seed", seed)
            self._luck = np.random.default_rng(seed)
        names, odds = self.game.prior.names, np.asarray(self.game.prior.probabilities, np.float64)
        kind = int(self._luck.choice(len(names), p=odds / odds.sum()))
        wanted = (options or {}).get("type")
        if wanted is not None:
            require(wanted in names, "options['type']", wanted, f"one of {', '.join(names)}")
            kind = names.index(wanted)
        key = jax.random.key(int(self._luck.integers(2**32)))
        key_reset, self._key = jax.random.split(key)
        self._kind = jnp.int32(kind)
        self._state = _reset(key_reset, self.game, self._kind)
        self._received = None
        self._round = 0
        self._seen = np.zeros((self.game.observation_spec,), np.float32)
        self.agents = list(self.possible_agents)
        return self._observations(), self._infos({}, {})

    def step(self, actions: dict[str, Any]):
        """Half a round: the attacker's, or the defender's if clients have answered.

        Args:
            actions: f32[A] by agent.

        Returns:
            (observations, rewards, terminations, truncations, infos), dicts by agent. After the
            second half the defender's info has ``loss``, what the server can measure itself; the
            attacker's has ``backdoor`` and ``malicious`` too.

        Raises:
            ConfigError: where the episode is over, or the action that is read is missing or has
                another shape than the space.
        """
        require(bool(self.agents), "agents", self.agents, "call reset first: the episode is over")
        rewards = dict.fromkeys(self.agents, 0.0)
        secret: dict[str, float] = {}
        if self._received is None:
            # halves are numbered from 0: one key each
            key = jax.random.fold_in(self._key, 2 * self._round)
            action = self._action(actions, ATTACKER)
            self._received, seen, self._state = _attack(
                key, self.game, self._state, self._kind, action
            )
            self._seen = np.asarray(seen)
        else:
            key = jax.random.fold_in(self._key, 2 * self._round + 1)
            action = self._action(actions, DEFENDER)
            self._state, paid = _defend(
                key, self.game, self._state, self._kind, self._received, action
            )
            self._received = None
            self._round += 1
            rewards = {
                DEFENDER: float(paid.defender_reward), ATTACKER: float(paid.attacker_reward)
            }  # fmt: skip
            secret = {name: float(paid.info[name]) for name in ("loss", "backdoor", "malicious")}
        known = {name: value for name, value in secret.items() if name == "loss"}
        observations, infos = self._observations(), self._infos(known, secret)
        over = self._round == self.game.horizon
        terminations = dict.fromkeys(self.agents, over)
        truncations = dict.fromkeys(self.agents, False)
        if over:
            self.agents = []
        return observations, rewards, terminations, truncations, infos

    def render(self) -> None:
        """There is nothing to look at."""

    def _action(self, actions: dict[str, Any], agent: str) -> jax.Array:
        space = self.action_spaces[agent]
        require(
            agent in actions, "actions", sorted(actions), f"an entry of {agent}, whose turn it is"
        )
        action = np.asarray(actions[agent], np.float32)
        require(
            action.shape == space.shape,
            f"shape of {agent}'s action",
            action.shape,
            f"{space.shape}",
        )
        return jnp.asarray(np.clip(action, space.low, space.high))

    def _observations(self) -> dict[str, np.ndarray]:
        own = np.asarray(_observe_attacker(self.game, self._state, self._kind))
        kind = np.eye(len(self.game.prior), dtype=np.float32)[int(self._kind)]
        # copies: a learner may keep them, or write into them
        return {DEFENDER: self._seen.copy(), ATTACKER: np.concatenate([own, kind])}

    def _infos(self, defender: dict, attacker: dict) -> dict[str, dict[str, Any]]:
        turn = ATTACKER if self._received is None else DEFENDER
        kind = self.game.prior.names[int(self._kind)]
        return {
            DEFENDER: {"acts": turn == DEFENDER, **defender},
            ATTACKER: {"acts": turn == ATTACKER, "type": kind, **attacker},
        }


@jax.jit
def _reset(key, game: FLGame, kind) -> GameState:
    return game.reset(key, game.prior[kind])


@jax.jit
def _observe_attacker(game: FLGame, state: GameState, kind):
    return game.observe_attacker(state, game.prior[kind])


@jax.jit
def _attack(key, game: FLGame, state: GameState, kind, action):
    return game.attack(key, state, game.prior[kind], action)


@jax.jit
def _defend(key, game: FLGame, state: GameState, kind, received, action):
    return game.defend(key, state, game.prior[kind], received, action)
