"""An attacker that looks through the defence each round, and sends what pays it most."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.errors import ConfigError
from metasg_jax.game.rollout import Player
from metasg_jax.numerics import row_norms
from metasg_jax.responders.knowledge import Knowledge
from metasg_jax.struct import Struct, field
from metasg_jax.types import Key, Received

_TINY = 1e-12


class Looking(Struct):
    """Tries each of J actions on the round at hand, through the defender's own decision.

    The attack's own knobs say what an action is; types without knobs send what they always send.

    Attributes:
        actions: f32[J, A] in [-1, 1]; of those that pay alike the first is taken.
        knows: what it sees the defence decide on.
        pays: static, what it maximises: ``reward``, its reward of this round; or ``kept``, how far
            the rows that are trusted lie from those of the first action, which for a blended attack
            are the honest ones: it also pays where the harm of a round does not show yet.
    """

    actions: jax.Array
    knows: Knowledge = Knowledge()
    pays: str = field(static=True, default="reward", choices=("reward", "kept"))

    def __call__(self, key, game, state, xi, defender, decide):
        """(received, the defender's observation, state after), as ``game.attack``; arguments as of
        :meth:`look`.
        """
        received, after, _ = self.look(key, game, state, xi, defender, decide)
        return received, *game.observe(after, received)

    def look(
        self, key: Key, game, state, xi, defender: Player, decide: Callable[[Any], jax.Array]
    ) -> tuple[Received, Any, jax.Array]:
        """The answer that pays most, and how bad it is.

        Args:
            key: consumed.
            game: an FL game.
            state: before the round.
            xi: the type; its indices must not be batched.
            defender: whose decisions they are.
            decide: observation -> action f32[A], what will be played.

        Returns:
            (received, state after, f32[n]: how far each row lies from that of the first action,
            relative to that of the last; 0 for clients that are not its own). For a blended attack
            that is the share of a row that is not honest work.

        Raises:
            ConfigError: where it is paid by what is kept, and the defence decides about no client.
        """
        if self.pays == "kept" and not game.num_trusted:
            raise ConfigError(
                "responder: kept: this defence decides about no client, so none is kept or left; "
                "leave 'kept' out"
            )
        malicious = game.malicious(state, xi)
        key_defend = jax.random.fold_in(jax.random.clone(key), 1_000_003)

        # what does not depend on the action, training above all, is done once for all of them
        def tried(action):
            return game.answer(jax.random.clone(key), state, xi, action)

        answers = jax.vmap(tried)(self.actions)
        first = answers[0].updates[0]

        def worth(received, after):
            choice, after = self.knows.decision(game, after, xi, received, decide)
            if self.pays == "reward":
                step = game.defend(jax.random.clone(key_defend), after, xi, received, choice)[1]
                return step.attacker_reward
            trusted = choice[: game.num_trusted] > 0
            return jnp.where(trusted & malicious, row_norms(received.updates - first), 0.0).sum()

        best = jnp.argmax(jax.vmap(worth)(*answers))
        received, after = jax.tree.map(lambda leaf: leaf[best], answers)
        whole = row_norms(answers[0].updates[-1] - first)
        part = row_norms(received.updates - first) / jnp.maximum(whole, _TINY)
        return received, after, jnp.where(malicious, part, 0.0)


MIXES = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)


def mixtures(
    action_size: int, mixes: Sequence[float] = MIXES, acting: Sequence[float] = (1.0,)
) -> jax.Array:
    """Actions f32[J, A] of the blended attacks: each mixture with each share that acts.

    Args:
        action_size: A, of the game's attackers.
        mixes: in [0, 1]; the first is honest work, the last the crafted update, for ``look``.
        acting: in (0, 1].
    """
    pairs = [(2 * m - 1, 2 * a - 1) for a in acting for m in mixes]
    # untargeted knobs come first, then the backdoor's; a type reads those of its own side
    return jnp.tile(jnp.asarray(pairs, jnp.float32), (1, -(-action_size // 2)))[:, :action_size]
