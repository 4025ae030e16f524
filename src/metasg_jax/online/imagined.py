"""Policy-gradient steps on imagined rounds: from the present model, against likely types."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player, map_groups, rollout
from metasg_jax.learning.estimators import advantages, log_probs, surrogate
from metasg_jax.online.belief import against_likely, likely
from metasg_jax.online.view import OnlineView, OwnWorld
from metasg_jax.struct import Struct, field
from metasg_jax.types import Info, Key

_LEARNER = MetaConfig(
    estimator="future_gain", discount=0.9, normalize_advantages=True, baseline="group"
)

_SHORTEST = 2.0**-12
"""Part of a step from which on none is taken."""


class Imagined(Struct):
    """Psi on rollouts of the own world, weighted by the belief, while the server waits.

    A real run so far is one trajectory, and carries little signal; here groups of rollouts share
    their randomness, as in pre-training.

    Attributes:
        lr: step size of Adam.
        clip: of the likelihood ratio.
        most_kl: how far a batch may move the policy, in nats a round; a step beyond is halved until
            it is not. Infinite for no limit.
        batches: static, of rollouts, one after another.
        epochs: static, steps on each.
        rounds: static, of a rollout.
        group_size: static, rollouts that share their randomness.
    """

    lr: float = 0.01
    clip: float = 0.2
    most_kl: float = math.inf
    batches: int = field(static=True, default=2)
    epochs: int = field(static=True, default=4)
    rounds: int = field(static=True, default=20)
    group_size: int = field(static=True, default=4)

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
        """(the policy some steps further, state, what it earned meanwhile)."""
        mix = likely(belief)
        actor = current.replace(greedy=False)

        def play(key, params, i):
            def member(key_environment, key_policies):
                start = own.at(jax.random.fold_in(key_environment, 1), i, view.server)
                return rollout(
                    jax.random.fold_in(key_environment, 2), key_policies, own.game,
                    own.game.prior[i], actor.replace(params=params), own.attacker(i),
                    state=start, num_rounds=self.rounds, responder=own.responder,
                )[1].defender  # fmt: skip

            return map_groups(member, key, 1, self.group_size)

        def batch(carry, b):
            params, opt = carry
            key_b = jax.random.fold_in(key, b)
            played = against_likely(lambda i: play(jax.random.fold_in(key_b, i), params, i), mix)

            def gain(params, played, behaviour):
                weights = advantages(played.reward, _LEARNER.discount, _LEARNER)
                return surrogate(actor.policy, params, played, weights, behaviour, self.clip)

            behaviour = jax.vmap(lambda p: log_probs(actor.policy, params, p))(played)

            def moved(params):
                each = jax.vmap(lambda p: log_probs(actor.policy, params, p))(played)
                log_ratio = jnp.clip(each - behaviour, -20.0, 20.0)
                far = (jnp.exp(log_ratio) - 1 - log_ratio).mean(axis=(1, 2, 3))  # Schulman's k3
                return mix @ jnp.where(mix > 0, far, 0.0)

            def epoch(carry, _):
                params, opt = carry

                def objective(params):
                    each = jax.vmap(gain, in_axes=(None, 0, 0))(params, played, behaviour)
                    return -mix @ jnp.where(mix > 0, each, 0.0)

                updates, opt = optax.adam(self.lr).update(jax.grad(objective)(params), opt)

                def shortened(scale):
                    return optax.tree.add_scale(params, scale, updates)

                def too_far(scale):
                    return (scale > _SHORTEST) & (moved(shortened(scale)) > self.most_kl)

                scale = jax.lax.while_loop(too_far, lambda scale: scale / 2, jnp.float32(1))
                return (shortened(jnp.where(scale > _SHORTEST, scale, 0.0)), opt), None

            carry, _ = jax.lax.scan(epoch, (params, opt), length=self.epochs)
            return carry, mix @ played.reward.mean(axis=(1, 2, 3))

        # the optimizer starts anew: moments of steps that a guard may have refused are of no use
        start = current.params, optax.adam(self.lr).init(current.params)
        (params, _), earned = jax.lax.scan(batch, start, jnp.arange(self.batches))
        return current.replace(params=params), state, {"imagined reward": earned[0]}
