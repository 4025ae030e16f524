"""The score function: (C1) of the paper and its relatives.

``g(tau) = sum_t grad log pi(a_t | s_t) A_t``, averaged over the batch. ``A_t`` is a return minus a
baseline. Unbiased for the discounted objective but for the return ``future_gain``, which counts
every step alike, and the baseline ``batch``, which holds the episode itself.
"""

import jax
import jax.numpy as jnp
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Played, Player, Trajectory, rollout_groups
from metasg_jax.types import Key, Params, Policy


def score(
    key: Key, game, xi, defender: Player, attacker: Player, leads: jax.Array, config: MetaConfig
) -> tuple[Params, Params, Trajectory]:
    """:func:`policy_gradient` of the leader or the follower, from fresh episodes.

    Interface and results as in :mod:`metasg_jax.learning.estimators`.
    """
    played = rollout_groups(
        key,
        game,
        xi,
        defender,
        attacker,
        config.num_groups,
        config.group_size,
        config.rollouts_at_once,
    )

    def leader():
        theta = policy_gradient(defender.policy, defender.params, played.defender, config)
        return theta, optax.tree.zeros_like(attacker.params)

    def follower():
        phi = policy_gradient(attacker.policy, attacker.params, played.attacker, config)
        return optax.tree.zeros_like(defender.params), phi

    return *jax.lax.cond(leads, leader, follower), played


def discounted_return(rewards: jax.Array, discount) -> jax.Array:
    """``sum_t discount^(t-1) r_t``, t from 1, along the last axis of f32[..., H]."""
    return rewards @ (discount ** jnp.arange(rewards.shape[-1]))


def discounted_to_go(rewards: jax.Array, discount) -> jax.Array:
    """``sum_{k >= t} discount^(k - t) r_k`` along the last axis of f32[..., H]."""

    def step(carry, reward):
        carry = reward + discount * carry
        return carry, carry

    flipped = jnp.moveaxis(rewards, -1, 0)[::-1]
    _, out = jax.lax.scan(step, jnp.zeros(rewards.shape[:-1], jnp.float32), flipped)
    return jnp.moveaxis(out[::-1], 0, -1)


def step_weights(
    rewards: jax.Array, discount, estimator: str, before: jax.Array | float = 0.0
) -> jax.Array:
    """The weight of each step's score, before any baseline: f32[..., H] from rewards f32[..., H].

    With ``J = E sum_t discount^(t-1) r_t`` (t from 1):

    - ``return``: the whole discounted return at every step, (C1) as printed;
    - ``return_to_go``: ``discount^(t-1)`` times the discounted return from t on;
    - ``future_gain``: ``sum_k discount^k (r_{t+k} - r_{t+k-1})``: the discounted average of what is
      still to come, minus the previous reward, which is a baseline known before the action. Before
      the first action ``before`` f32[...] was paid, by default nothing. (The first reward in its
      place would follow from that action, and turn its credit from 1 - discount to -discount.)
    """
    powers = discount ** jnp.arange(rewards.shape[-1])
    powers = powers.reshape((1,) * (rewards.ndim - 1) + powers.shape)
    if estimator == "return":
        return jnp.broadcast_to((powers * rewards).sum(-1, keepdims=True), rewards.shape)
    if estimator == "return_to_go":
        return powers * discounted_to_go(rewards, discount)
    first = jnp.broadcast_to(jnp.asarray(before)[..., None], rewards[..., :1].shape)
    previous = jnp.concatenate([first, rewards[..., :-1]], axis=-1)
    return discounted_to_go(rewards - previous, discount)


def advantages(rewards: jax.Array, discount, config: MetaConfig) -> jax.Array:
    """Step weights minus the baseline: f32[E, G, H] from rewards f32[E, G, H].

    ``config.baseline`` at each step: ``none``; ``batch``, the mean of all episodes (biased: the
    gradient shrinks by 1 - 1/N_b); ``leave_one_out``, that of all *other* episodes; ``group``, that
    of the other members of the group, which shared the environment's randomness. The last two are
    independent of the episode's own noise, so the estimate stays unbiased.
    """
    weights = step_weights(rewards, discount, config.estimator)
    axes = {"none": (), "batch": (0, 1), "leave_one_out": (0, 1), "group": (1,)}[config.baseline]
    if axes:
        total = weights.sum(axis=axes, keepdims=True)
        count = weights.size // total.size
        if config.baseline == "batch":
            weights = weights - total / count
        else:
            weights = weights - (total - weights) / (count - 1)
    if config.normalize_advantages:
        weights = weights / jnp.maximum(weights.std(), 1e-8)
    return weights


def log_probs(policy: Policy, params: Params, played: Played) -> jax.Array:
    """Log densities f32[E, G, H] of the draws under ``params``."""
    lead = played.reward.ndim
    obs, raw = jax.tree.map(lambda a: a.reshape(-1, *a.shape[lead:]), (played.obs, played.raw))
    out = jax.vmap(policy.log_prob, in_axes=(None, 0, 0))(params, obs, raw)
    return out.reshape(played.reward.shape)


def weighted_log_prob(
    policy: Policy,
    params: Params,
    played: Played,
    config: MetaConfig,
    factors: jax.Array | float = 1.0,
) -> jax.Array:
    """Sum over steps, mean over episodes, of log pi times its advantage: its gradient is (C1), and
    its Hessian the derivative of (C1) with the episodes held fixed.

    ``factors`` f32[E, G] multiply each episode's part.
    """
    weights = advantages(played.reward, config.discount, config)
    weights = weights * jnp.broadcast_to(factors, weights.shape[:-1])[..., None]
    return (log_probs(policy, params, played) * weights).sum(axis=-1).mean()


def surrogate(
    policy: Policy,
    params: Params,
    played: Played,
    weights: jax.Array,
    behaviour: jax.Array,
    ratio_clip,
) -> jax.Array:
    """A scalar for several steps on one batch; at the sampling parameters its gradient is (C1).

    Sum over steps, mean over rollouts, of the likelihood ratio times the step's weight; away from
    the sampling parameters the ratio is clipped to ``1 +- ratio_clip`` (Schulman et al., 2017).

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


def policy_gradient(
    policy: Policy,
    params: Params,
    played: Played,
    config: MetaConfig,
    factors: jax.Array | float = 1.0,
) -> Params:
    """(C1): the estimate of grad J at ``params``, from episodes sampled at ``params``.

    Differentiable in ``params``, the episodes held fixed. ``factors`` f32[E, G] multiply each
    episode's part.
    """
    return jax.grad(weighted_log_prob, argnums=1)(policy, params, played, config, factors)
