"""Planning: the constant action that earns most from the present model, against likely types."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from metasg_jax.evaluation.controls import whole_grid
from metasg_jax.game.rollout import Player, rollout
from metasg_jax.online.belief import against_likely, likely
from metasg_jax.online.view import OnlineView, OwnWorld
from metasg_jax.policies import Gaussian
from metasg_jax.struct import Struct, field
from metasg_jax.types import Info, Key


class Planned(Struct):
    """Psi without a gradient: model-predictive control in the own world.

    The meta policy is tried beside a grid of constant actions, all under the same random numbers,
    and what earns most, by the belief, plays the next block.

    Attributes:
        clips: static, levels of the clip that are tried.
        trims: static, of the trim.
        levels: static, of the post-training defence.
        rounds: static, that are played ahead.
    """

    clips: int = field(static=True, default=3)
    trims: int = field(static=True, default=3)
    levels: int = field(static=True, default=2)
    rounds: int = field(static=True, default=20)

    adapts: ClassVar[bool] = True
    explores: ClassVar[bool] = False

    def begin(self, key: Key, own: OwnWorld, meta: Player):
        """Nothing to prepare."""
        return ()

    def __call__(
        self,
        key: Key,
        state,
        own: OwnWorld,
        meta: Player,
        current: Player,
        view: OnlineView,
        belief: jax.Array,
    ) -> tuple[Player, object, Info]:
        """(the best of the grid and the meta policy, state, its lead over the meta policy)."""
        assert isinstance(meta.policy, Gaussian)
        knobs = own.game.rule.action_spec, own.game.post_defense.action_spec
        actions = jnp.asarray(whole_grid(self.clips, self.trims, self.levels, *knobs)[0])
        tried = jax.vmap(lambda action: meta.policy.constant(meta.params, action))(actions)
        tried = jax.tree.map(
            lambda own, all_: jnp.concatenate([own[None], all_]), meta.params, tried
        )
        mix = likely(belief)

        def play(i):
            key_start, key_environment, key_policies = jax.random.split(
                jax.random.fold_in(key, i), 3
            )
            start = own.at(key_start, i, view.server)

            def earned(params):  # keys are cloned: all are to share them
                played = rollout(
                    jax.random.clone(key_environment), jax.random.clone(key_policies), own.game,
                    own.game.prior[i], meta.replace(params=params, greedy=True), own.attacker(i),
                    state=start, num_rounds=self.rounds,
                )[1]  # fmt: skip
                return played.defender.reward.mean()

            return jax.vmap(earned)(tried)

        rewards = mix @ against_likely(play, mix)
        best = jnp.argmax(rewards)
        params = jax.tree.map(lambda leaf: leaf[best], tried)
        return current.replace(params=params), state, {"planned gain": rewards[best] - rewards[0]}
