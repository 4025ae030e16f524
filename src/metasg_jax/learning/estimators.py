"""Policy-gradient estimates from groups of episodes: (C1) of the paper and its relatives.

``g(tau) = sum_t grad log pi(a_t | s_t) A_t``, averaged over the batch. What ``A_t`` is, is the
estimator's name; all are unbiased for the discounted objective but ``future_gain``, which counts
every step alike.
"""

import jax
import jax.numpy as jnp

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Played
from metasg_jax.types import Params, Policy


def discounted_to_go(rewards: jax.Array, discount) -> jax.Array:
    """``sum_{k >= t} discount^(k - t) r_k`` along the last axis of f32[..., H]."""

    def step(carry, reward):
        carry = reward + discount * carry
        return carry, carry

    flipped = jnp.moveaxis(rewards, -1, 0)[::-1]
    _, out = jax.lax.scan(step, jnp.zeros(rewards.shape[:-1]), flipped)
    return jnp.moveaxis(out[::-1], 0, -1)


def step_weights(rewards: jax.Array, discount, estimator: str) -> jax.Array:
    """The weight of each step's score, before any baseline: f32[..., H] from rewards f32[..., H].

    With ``J = E sum_t discount^(t-1) r_t`` (t from 1):

    - ``return``: the whole discounted return at every step, (C1) as printed;
    - ``return_to_go``: ``discount^(t-1)`` times the discounted return from t on;
    - ``future_gain``: ``sum_k discount^k (r_{t+k} - r_{t+k-1})``: the discounted average of what is
      still to come, minus the previous reward, which is a baseline known before the action.
    """
    powers = discount ** jnp.arange(rewards.shape[-1])
    powers = powers.reshape((1,) * (rewards.ndim - 1) + powers.shape)
    if estimator == "return":
        return jnp.broadcast_to((powers * rewards).sum(-1, keepdims=True), rewards.shape)
    if estimator == "return_to_go":
        return powers * discounted_to_go(rewards, discount)
    previous = jnp.concatenate([rewards[..., :1], rewards[..., :-1]], axis=-1)
    return discounted_to_go(rewards - previous, discount)


def advantages(rewards: jax.Array, discount, config: MetaConfig) -> jax.Array:
    """Step weights minus the baseline: f32[E, G, H] from rewards f32[E, G, H].

    The group baseline of a rollout is the mean of the *other* rollouts of its group at the same
    step: independent of its own noise, so the estimate stays unbiased.
    """
    weights = step_weights(rewards, discount, config.estimator)
    if config.baseline == "group":
        size = weights.shape[1]
        others = (weights.sum(axis=1, keepdims=True) - weights) / (size - 1)
        weights = weights - others
    if config.normalize_advantages:
        weights = weights / jnp.maximum(weights.std(), 1e-8)
    return weights


def log_probs(policy: Policy, params: Params, played: Played) -> jax.Array:
    """Log densities f32[E, G, H] of the draws under ``params``."""
    flat = jax.tree.map(
        lambda a: a.reshape(-1, a.shape[-1]), {"obs": played.obs, "raw": played.raw}
    )
    out = jax.vmap(policy.log_prob, in_axes=(None, 0, 0))(params, flat["obs"], flat["raw"])
    return out.reshape(played.reward.shape)


def surrogate(
    policy: Policy,
    params: Params,
    played: Played,
    weights: jax.Array,
    behaviour: jax.Array,
    ratio_clip,
) -> jax.Array:
    """A scalar whose gradient at the sampling parameters is the estimate (C1).

    Sum over steps, mean over rollouts, of the likelihood ratio times the step's weight; away from
    the sampling parameters the ratio is clipped to ``1 +- ratio_clip`` (Schulman et al., 2017),
    which allows several steps on one batch.

    Args:
        policy: static.
        params: where the gradient is wanted.
        played: leaves [E, G, H, ...].
        weights: f32[E, G, H], see :func:`advantages`.
        behaviour: f32[E, G, H], log densities under the sampling parameters.
        ratio_clip: positive.
    """
    log_ratio = log_probs(policy, params, played) - behaviour
    ratio = jnp.exp(jnp.clip(log_ratio, -20.0, 20.0))
    clipped = jnp.clip(ratio, 1 - ratio_clip, 1 + ratio_clip)
    return jnp.minimum(ratio * weights, clipped * weights).sum(axis=-1).mean()


def policy_gradient(policy: Policy, params: Params, played: Played, config: MetaConfig) -> Params:
    """The estimate of grad J at ``params``, from episodes sampled at ``params``."""
    weights = advantages(played.reward, config.discount, config)
    behaviour = log_probs(policy, params, played)
    return jax.grad(surrogate, argnums=1)(
        policy, params, played, weights, behaviour, config.ratio_clip
    )
