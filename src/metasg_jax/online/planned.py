"""Planning: what earns most from the present model, against likely types.

Of constant actions where a policy turns knobs; of stricter policies where it decides about clients.
"""

import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp

from metasg_jax.evaluation.controls import whole_grid
from metasg_jax.game.rollout import Player, rollout
from metasg_jax.online.belief import against_likely, likely
from metasg_jax.online.view import OnlineView, OwnWorld
from metasg_jax.policies import Gaussian, SetPolicy
from metasg_jax.struct import Struct, field
from metasg_jax.types import Info, Key, Params


class Planned(Struct):
    """Psi without a gradient: model-predictive control in the own world.

    The meta policy is tried beside others, all under the same random numbers, and what earns most,
    by the belief, plays the next block: beside a grid of constant actions, or, where it decides
    about each client, beside itself with every threshold and every trim.

    Attributes:
        clips: static, levels of the clip that are tried.
        trims: static, of the trim.
        levels: static, of the post-training defence.
        rounds: static, that are played ahead.
        thresholds: static, of trust; each in (0, 1).
        shares: static, trims in that case, from 0 to 0.45.
    """

    clips: int = field(static=True, default=3)
    trims: int = field(static=True, default=3)
    levels: int = field(static=True, default=2)
    rounds: int = field(static=True, default=20)
    thresholds: tuple[float, ...] = field(static=True, default=(0.5, 0.9))
    shares: tuple[float, ...] = field(static=True, default=(0.0, 0.15, 0.3))

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
        tried = jax.tree.map(
            lambda mine, others: jnp.concatenate([mine[None], others]),
            meta.params, self.others(own, meta),
        )  # fmt: skip
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
                    state=start, num_rounds=self.rounds, responder=own.responder,
                )[1]  # fmt: skip
                return played.defender.reward.mean()

            return jax.vmap(earned)(tried)

        rewards = mix @ against_likely(play, mix)
        best = jnp.argmax(rewards)
        params = jax.tree.map(lambda leaf: leaf[best], tried)
        return current.replace(params=params), state, {"planned gain": rewards[best] - rewards[0]}

    def others(self, own: OwnWorld, meta: Player) -> Params:
        """Parameters, stacked, of all that is tried beside the meta policy."""
        policy = meta.policy
        if isinstance(policy, SetPolicy):
            pairs = itertools.product(self.thresholds, self.shares)
            rows = [policy.strict_params(meta.params, *pair) for pair in pairs]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
        assert isinstance(policy, Gaussian)
        knobs = own.game.rule.action_spec, own.game.post_defense.action_spec
        actions = jnp.asarray(whole_grid(self.clips, self.trims, self.levels, *knobs)[0])
        return jax.vmap(lambda action: policy.constant(meta.params, action))(actions)
