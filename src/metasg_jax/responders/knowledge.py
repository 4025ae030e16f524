"""What an attacker that looks through the defence knows; each part can be taken away."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.game.rollout import Player
from metasg_jax.numerics import shares, weighted_sum
from metasg_jax.struct import Struct, field
from metasg_jax.types import Received


class Knowledge(Struct):
    """A look through the defence: what it would decide on a round, as far as the attacker knows.

    Attributes:
        weights: None where it knows the defender itself; else the player that it takes for it, one
            that it trained on its own, say.
        rows: static, whether it sees the other clients' updates. Without them copies of its own
            stand in for them, dealt in turn.
        root: static, whether it sees the server's images and own update. Without them images of its
            own clients and the mean of the updates that it sees stand in.
    """

    weights: Player | None = None
    rows: bool = field(static=True, default=True)
    root: bool = field(static=True, default=True)

    def decision(
        self, game, state, xi, received: Received, decide: Callable[[Any], jax.Array]
    ) -> tuple[jax.Array, Any]:
        """(the action f32[A] that it expects of the defender, state with what that one remembers).

        Args:
            game: the FL game.
            state: of this round.
            xi: the attacker's type.
            received: what the server will receive.
            decide: observation -> action f32[A], of the defender.
        """
        game = game if self.root else _with_own_images(game, xi)
        obs, state = game.observe(state, self.seen(received, game.malicious(state, xi)))
        if self.weights is None:
            return decide(obs), state
        return self.weights.mode(obs), state

    def seen(self, received: Received, malicious: jax.Array) -> Received:
        """The round as it looks to the attacker; ``malicious`` bool[n] are its clients in it."""
        updates, root = received.updates, received.root_update
        if not self.rows:
            count = jnp.maximum(malicious.sum(), 1)
            mine = jnp.argsort(~malicious, stable=True)  # its clients first
            stand_in = mine[jnp.arange(malicious.shape[0]) % count]
            updates = jnp.where(malicious[:, None], updates, updates[stand_in])
        if not self.root and root is not None:
            others = ~malicious if self.rows else jnp.ones_like(malicious)
            others = jnp.where(others.any(), others, True)
            root = weighted_sum(shares(others), updates)
        return received.replace(updates=updates, root_update=root)


def _with_own_images(game, xi):
    """The game with images of the attacker's clients in the place of the server's."""
    count = jnp.maximum(xi.num_backdoor + xi.num_untargeted, 1)
    places = jnp.arange(game.root_y.shape[0])
    owners = places % count
    images, labels = game.data.pick(owners, (places // count) % game.data.sizes[owners])
    return game.replace(root_x=images.astype(game.root_x.dtype), root_y=labels)
