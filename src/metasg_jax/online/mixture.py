"""Acting by the belief: the mixture of the types' best actions (appendix B of the paper)."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from metasg_jax.evaluation.controls import whole_grid
from metasg_jax.evaluation.episodes import score_actions
from metasg_jax.game.rollout import Player
from metasg_jax.online.view import OnlineView, OwnWorld
from metasg_jax.policies import Gaussian
from metasg_jax.struct import Struct, field
from metasg_jax.types import Info, Key


class Mixture(Struct):
    """Psi without a gradient: the belief's mean of the best fixed action of each type.

    Attributes:
        clips: static, levels of the clip that are tried.
        trims: static, of the trim.
        levels: static, of the post-training defence.
    """

    clips: int = field(static=True, default=6)
    trims: int = field(static=True, default=4)
    levels: int = field(static=True, default=3)

    adapts: ClassVar[bool] = True
    explores: ClassVar[bool] = False

    def begin(self, key: Key, own: OwnWorld, meta: Player) -> jax.Array:
        """The best action f32[K, A] of each type, on an episode each in the own world."""
        knobs = own.game.rule.action_spec, own.game.post_defense.action_spec
        grid, levels = map(jnp.asarray, whole_grid(self.clips, self.trims, self.levels, *knobs))
        scores = score_actions(
            key, own.game, grid[:: len(levels)], levels, own.attackers, "validation"
        )
        return grid[jnp.argmax(scores.reshape(len(own.game.prior), -1), axis=1)]

    def __call__(
        self,
        key: Key,
        state: jax.Array,
        own: OwnWorld,
        meta: Player,
        current: Player,
        view: OnlineView,
        belief: jax.Array,
    ) -> tuple[Player, jax.Array, Info]:
        """(the meta policy with a last layer that plays the mixture, state, {})."""
        assert isinstance(meta.policy, Gaussian)
        params = meta.policy.constant(meta.params, belief @ state)
        return current.replace(params=params), state, {}
