"""Policy-gradient steps on the real run so far, as the paper has it."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from metasg_jax.game.rollout import Player, as_shapes
from metasg_jax.learning.estimators import step_weights
from metasg_jax.online.view import OnlineView, OwnWorld
from metasg_jax.struct import Struct, field
from metasg_jax.types import Info, Key


class SoFar(Struct):
    """All rounds so far, padded to H.

    Attributes:
        obs: f32[H, O] or a view of clients a round, normalised.
        raw: f32[H, A].
        reward: f32[H], estimated.
        behaviour: f32[H], log density of each draw when it was made.
    """

    obs: Any
    raw: jax.Array
    reward: jax.Array
    behaviour: jax.Array


class RealTrajectory(Struct):
    """Psi on the only trajectory there is, whose rewards the server estimates.

    The policy samples its actions: without noise there is nothing to learn from.

    Attributes:
        lr: step size of plain ascent.
        discount: of future gains.
        clip: of the likelihood ratio: earlier rounds were played by earlier policies.
        weight: of the backdoor's estimated success in the reward.
        steps: static, after each block.
    """

    lr: float = 0.03
    discount: float = 0.9
    clip: float = 0.2
    weight: float = 1.0
    steps: int = field(static=True, default=4)

    adapts: ClassVar[bool] = True
    explores: ClassVar[bool] = True

    def begin(self, key: Key, own: OwnWorld, meta: Player) -> SoFar:
        """Nothing so far."""
        h, a, spec = own.game.horizon, own.game.action_size, as_shapes(own.game.observation_spec)
        return SoFar(
            jax.tree.map(lambda leaf: jnp.zeros((h, *leaf.shape), leaf.dtype), spec),
            jnp.zeros((h, a), jnp.float32),
            jnp.zeros((h,), jnp.float32),
            jnp.zeros((h,), jnp.float32),
        )

    def __call__(
        self,
        key: Key,
        state: SoFar,
        own: OwnWorld,
        meta: Player,
        current: Player,
        view: OnlineView,
        belief: jax.Array,
    ) -> tuple[Player, SoFar, Info]:
        """(the policy some steps further, all rounds so far, {})."""
        policy, obs = current.policy, jax.vmap(meta.normalizer)(view.observation)
        density = jax.vmap(policy.log_prob, in_axes=(None, 0, 0))
        new = SoFar(obs, view.raw, view.reward(self.weight), view.log_prob)
        count = len(view.loss)
        # a run may be longer than its horizon says: the newest rounds are kept
        start = jnp.clip(view.server.round - count, 0, len(state.reward) - count)
        state = jax.tree.map(
            lambda all_, part: jax.lax.dynamic_update_slice_in_dim(all_, part, start, 0), state, new
        )
        there = jnp.arange(len(state.reward)) < start + count
        # after the last round nothing is known: a reward that stays gains nothing
        last = state.reward[start + count - 1]
        # one run has nothing to compare its beginning with: its first reward stands for what was
        # paid before, so that rewards that never change teach nothing
        rewards = jnp.where(there, state.reward, last)
        weights = step_weights(rewards, self.discount, "future_gain", before=rewards[0])
        mean = (weights * there).sum() / there.sum()
        weights = jnp.where(there, weights - mean, 0.0)
        weights = weights / jnp.maximum(jnp.sqrt((weights**2).sum() / there.sum()), 1e-8)

        def objective(params):
            ratio = jnp.exp(density(params, state.obs, state.raw) - state.behaviour)
            cut = jnp.clip(ratio, 1 - self.clip, 1 + self.clip)
            return (jnp.minimum(ratio * weights, cut * weights) * there).sum() / there.sum()

        def step(params, _):
            return optax.tree.add_scale(params, self.lr, jax.grad(objective)(params)), None

        params, _ = jax.lax.scan(step, current.params, length=self.steps)
        return current.replace(params=params), state, {}
