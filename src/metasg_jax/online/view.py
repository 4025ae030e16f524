"""What a server knows in mid-run, and nothing else: what adaptation online may read.

The test set, the attacker's type, clients' images and which clients are malicious are in no field
here; what adapts a policy gets these structures and the server's own world, never the game.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.config import RunConfig
from metasg_jax.data import Dataset
from metasg_jax.features.memory import ClientMemory
from metasg_jax.features.view import ClientView
from metasg_jax.game.bsmg import FLGame, GameState
from metasg_jax.game.make import make_game, simulated_clients
from metasg_jax.game.rollout import Player
from metasg_jax.game.shapes import of_shared_shape
from metasg_jax.game.types import parse_type
from metasg_jax.learning.state import MetaSGState, attacker_player, init_state, policies
from metasg_jax.policies import Gaussian
from metasg_jax.struct import Struct
from metasg_jax.types import Key

_PLANTED = 0.5
"""Estimated success from which on a trigger counts as planted."""


class ServerState(Struct):
    """Where a run stands, on the server's side of it.

    Attributes:
        w: f32[d], the global model.
        round: i32[], of the coming round.
        diverged: bool[].
        loss: f32[], clean loss of ``w`` on the root images.
        memory: of the observation.
        previous_action: f32[A].
        rule_state: of the rule.
    """

    w: jax.Array
    round: jax.Array
    diverged: jax.Array
    loss: jax.Array
    memory: Any
    previous_action: jax.Array
    rule_state: jax.Array


class OnlineView(Struct):
    """A block of T rounds, as the server saw it.

    Attributes:
        before: where the run stood when it began.
        server: where the run stands after it.
        observation: f32[T, O], or a :class:`~metasg_jax.features.view.ClientView` a round, as the
            game gave it: of the updates that arrived.
        raw: f32[T, A], the policy's draws before squashing.
        log_prob: f32[T], log density of each draw, of the policy that drew it.
        action: f32[T, A] in [-1, 1].
        loss: f32[T], clean loss on the root images after each round.
        success: f32[T], of the backdoor, as estimated by patches searched on the root images.
        trigger: (mask, pattern, target), the likeliest patch after the block, each f32[h, w, c],
            and its label i32[].
    """

    before: ServerState
    server: ServerState
    observation: Any
    raw: jax.Array
    log_prob: jax.Array
    action: jax.Array
    loss: jax.Array
    success: jax.Array
    trigger: tuple[jax.Array, jax.Array, jax.Array]

    def reward(self, weight) -> jax.Array:
        """The defender's reward f32[T] as the server can estimate it."""
        return -self.loss - weight * self.success


class OwnWorld(Struct):
    """What the server has made up beforehand.

    Attributes:
        game: the simulated game; its clients' images are made of root images.
        attackers: of its K types, parameters stacked.
        responder: how they use what they know of the policy, see :mod:`metasg_jax.responders`;
            None, not at all.
    """

    game: FLGame
    attackers: Player
    responder: Any = None

    def at(self, key: Key, i, server: ServerState) -> GameState:
        """A simulated run against type ``i`` that stands where the real one does.

        Its clients are others: what the server remembers of the real ones is no word about them.
        """
        state = self.game.reset(key, self.game.prior[i])
        names = ServerState.__dataclass_fields__
        known = {name: getattr(server, name) for name in names}
        if isinstance(server.memory, ClientMemory):
            memory = server.memory
            known["memory"] = state.memory.replace(spread=memory.spread, rounds=memory.rounds)
        return state.replace(**known)

    def suspecting(self, view: OnlineView) -> "OwnWorld":
        """The same world, whose attackers use the trigger that the real model seems to know.

        A backdoor that is planted already is in the model that runs are imagined from; under a
        trigger of the own world's making nobody would see it. Where less than half of the images
        seem to obey the likeliest patch, there is none, and nothing changes.
        """
        types, there = self.game.prior.types, view.success[-1] > _PLANTED
        names = ("trigger_mask", "trigger_pattern", "target")

        def seen(own, found):
            return jnp.where(there, jnp.broadcast_to(found, own.shape).astype(own.dtype), own)

        changed = {
            name: seen(getattr(types, name), found)
            for name, found in zip(names, view.trigger, strict=True)
        }
        prior = self.game.prior.replace(types=types.replace(**changed))
        return self.replace(game=self.game.replace(prior=prior))

    def attacker(self, i) -> Player:
        """The attacker of type ``i``."""
        return self.attackers.of(i)


def summary(observation: Any) -> jax.Array:
    """Numbers f32[O] about a round, whatever a policy sees of it.

    Clients are a set: of each of their numbers the mean and the standard deviation.
    """
    if not isinstance(observation, ClientView):
        return observation
    clients = observation.clients
    return jnp.concatenate([observation.round, clients.mean(axis=0), clients.std(axis=0)])


def own_world(
    state: MetaSGState,
    config: RunConfig,
    dataset: Dataset,
    seed: int,
    clients: str = "augmented",
    num_simulated: int = 6000,
    types: tuple[str, ...] = (),
) -> OwnWorld:
    """The own world of a server that deploys a pre-trained policy.

    Args:
        state: of the pre-training: its attackers are those of the adaptive types.
        config: of it: types, trigger and heterogeneity are what the server made up then.
        dataset: of which nothing but the server's root images is read.
        seed: of the real world's game, which says which images these are.
        clients: what simulated clients hold, of ``SIMULATIONS``.
        num_simulated: images that are made.
        types: whom the server imagines; empty: those of the pre-training, with its prior. A wider
            table costs the pre-training nothing.

    Raises:
        UnknownNameError, ConfigError: see :func:`~metasg_jax.data.simulated.simulate`.
    """
    game = dataclasses.replace(config.game, seed=seed)
    if types:
        game = dataclasses.replace(game, types=types, probabilities=())
    simulated, _ = simulated_clients(game, dataset, clients, num_simulated)
    own = of_shared_shape(make_game(game, config.fl, dataset, simulated))
    return OwnWorld(own, attackers_of(game.types, state, config, own))


def attackers_of(types: tuple[str, ...], state: MetaSGState, config: RunConfig, game) -> Player:
    """The attackers of a table, parameters stacked.

    Those of the pre-training where a type is one of its own; the parameters of all others are
    fresh, and read by nobody but an adaptive type. Where the tables differ in the number of knobs,
    those that both have keep their columns in the last layer.

    Args:
        types: the table.
        state: of the pre-training.
        config: of it.
        game: whose attackers they are.
    """
    fresh = init_state(jax.random.key(0), game, config.meta).phi
    known = config.game.types
    before, after = (_num_knobs(each, config.fl.num_clients) for each in (known, types))
    policy = policies(game, config.meta)[1]
    # an action holds the untargeted knobs, then those of the backdoor
    moves = tuple(
        (sum(before[:k]), sum(after[:k]), min(before[k], after[k])) for k in range(len(before))
    )

    def row(i: int, text: str):
        new = jax.tree.map(lambda leaf: leaf[i], fresh)
        if text not in known:
            return new
        own = jax.tree.map(lambda leaf: leaf[known.index(text)], state.phi)
        if before == after:
            return own
        assert isinstance(policy, Gaussian)
        return policy.carry(own, new, moves)

    rows = [row(i, text) for i, text in enumerate(types)]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    return attacker_player(state, game, config.meta, 0, True).replace(params=params)


def _num_knobs(types: tuple[str, ...], num_clients: int) -> tuple[int, int]:
    """How many entries of an action a table's untargeted attacks read, and its backdoors."""
    specs = [parse_type(text, num_clients) for text in types]
    return (
        max(len(spec.untargeted.action_spec) for spec in specs),
        max(len(spec.backdoor.action_spec) for spec in specs),
    )


def server_side(state: GameState) -> ServerState:
    """The server's part of a game's state."""
    return ServerState(*(getattr(state, name) for name in ServerState.__dataclass_fields__))
