"""A belief over attacker types: appendix B of the paper, learned in the server's own world."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metasg_jax.game.rollout import Normalizer, Player, rollout_groups
from metasg_jax.online.view import OnlineView, OwnWorld, summary
from metasg_jax.struct import Struct
from metasg_jax.types import Key

_STEPS, _RATE, _DECAY = 300, 0.05, 1e-3
_RECENT = 5


def likely(belief: jax.Array) -> jax.Array:
    """A belief f32[K] without the types below 0.05, of sum 1: nobody plays ahead against those.

    Where none is above, the likeliest are left.
    """
    kept = jnp.where(belief >= jnp.minimum(0.05, belief.max()), belief, 0.0)
    return kept / kept.sum()


def against_likely(play: Callable[[jax.Array], Any], weights: jax.Array) -> Any:
    """What is played against each type; nothing is, and it is 0, where a type has no weight.

    One after another, so that what has no weight costs no time.

    Args:
        play: of the type's index, a traced i32[] that is not batched.
        weights: f32[K].

    Returns:
        what ``play`` returns, with a leading axis K.
    """
    play = jax.jit(play)  # its trace is kept: one for the shapes and for the program
    shapes = jax.eval_shape(play, jnp.int32(0))

    def nothing():
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def against(_, i):
        return None, jax.lax.cond(weights[i] > 0, lambda: play(i), nothing)

    return jax.lax.scan(against, None, jnp.arange(len(weights), dtype=jnp.int32))[1]


class Belief(Struct):
    """A multinomial logistic regression from a round's observation to the type.

    Attributes:
        kernel: f32[O, K], O the numbers of :func:`~metasg_jax.online.view.summary`.
        bias: f32[K].
        normalizer: of the observations: the meta policy's.
    """

    kernel: jax.Array
    bias: jax.Array
    normalizer: Normalizer

    def logits(self, observation: Any) -> jax.Array:
        """f32[K] of an observation as the game gave it."""
        return summary(self.normalizer(observation)) @ self.kernel + self.bias

    def __call__(self, view: OnlineView) -> jax.Array:
        """f32[K], of sum 1, from the last rounds of a block."""
        recent = jax.tree.map(lambda leaf: leaf[-_RECENT:], view.observation)
        return jax.nn.softmax(jax.vmap(self.logits)(recent).mean(axis=0))


@jax.jit
def learn_belief(key: Key, own: OwnWorld, meta: Player, later: jax.Array | float = 0.1) -> Belief:
    """Plays the meta policy against each type of the own world, and learns to tell them apart.

    Args:
        key: consumed.
        own: the server's own world.
        meta: the policy that will be deployed, sampling.
        later: share of an episode that is left out at its start, in which all look alike.
    """
    kinds = len(own.game.prior)

    def play(_, i):
        key_type = jax.random.fold_in(key, i)
        played = rollout_groups(
            key_type, own.game, own.game.prior[i], meta, own.attacker(i), 6, 1,
            responder=own.responder,
        )  # fmt: skip
        seen = jax.tree.map(lambda leaf: leaf[:, 0], played.defender.raw_obs)
        return None, jax.vmap(jax.vmap(lambda each: summary(meta.normalizer(each))))(seen)

    _, seen = jax.lax.scan(play, None, jnp.arange(kinds, dtype=jnp.int32))
    # [K, E, H, O]; early rounds weigh nothing
    horizon = seen.shape[2]
    weights = (jnp.arange(horizon) >= later * horizon).astype(jnp.float32)
    weights = jnp.broadcast_to(weights[None, None], seen.shape[:3]).reshape(-1)
    weights = weights / weights.sum()
    x = seen.reshape(-1, seen.shape[-1])
    y = jnp.repeat(jnp.arange(kinds), seen.shape[1] * horizon)
    optimizer = optax.adam(_RATE)

    def loss(params):
        kernel, bias = params
        each = optax.softmax_cross_entropy_with_integer_labels(x @ kernel + bias[None], y)
        return weights @ each + _DECAY * jnp.sum(kernel**2)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    params = (jnp.zeros((x.shape[1], kinds), jnp.float32), jnp.zeros((kinds,), jnp.float32))
    ((kernel, bias), _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=_STEPS)
    return Belief(kernel, bias, meta.normalizer)
