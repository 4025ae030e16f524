"""Credit for each decision about a client: what the round would have paid with the other one.

The score function gives every decision of a round the same weight, that of the whole action: with
n clients the signal of one drowns in the noise of the others. Here decision i of round t is weighed
by ``r_t(client i kept) - r_t(left)``, the others' decisions as they were played (a counterfactual
baseline: Foerster et al., AAAI 2018), and no score is needed: the gradient is that of
``sum_i p_i (r(kept) - r(left))``, p_i the probability of keeping. Unbiased for what a round pays at
once; blind to what a decision does to later rounds through anything but the model of this one.
"""

import jax
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Played, Player, Trajectory, rollout_groups
from metasg_jax.learning.estimators.score import (
    advantages,
    discounted_return,
    policy_gradient,
)
from metasg_jax.types import Key, Params


def credit(
    key: Key, game, xi, defender: Player, attacker: Player, leads: jax.Array, config: MetaConfig
) -> tuple[Params, Params, Trajectory]:
    """The leader's gradient by credit for each client; knobs, and the follower, by their score.

    For games that decide about each client, with a :class:`~metasg_jax.policies.SetPolicy`. Costs
    2 n aggregations and evaluations a round beside the episode. Interface and results as in
    :mod:`metasg_jax.learning.estimators`.
    """
    played = rollout_groups(
        key, game, xi, defender, attacker,
        config.num_groups, config.group_size, config.rollouts_at_once, credits=True,
    )  # fmt: skip
    info = {name: value for name, value in played.info.items() if name != "credit"}
    credits = played.info["credit"]
    played = played.replace(info=info)

    def leader():
        def objective(theta):
            return credited(defender.policy, theta, played.defender, credits, config)

        return jax.grad(objective)(defender.params), optax.tree.zeros_like(attacker.params)

    def follower():
        phi = policy_gradient(attacker.policy, attacker.params, played.attacker, config)
        return optax.tree.zeros_like(defender.params), phi

    return *jax.lax.cond(leads, leader, follower), played


def credited(policy, theta: Params, played: Played, credits: jax.Array, config: MetaConfig):
    """A scalar whose gradient at the sampling parameters is the estimate.

    Args:
        policy: a set policy.
        theta: its parameters.
        played: leaves [E, G, H, ..].
        credits: f32[E, G, H, n], what each client earns by being kept.
        config: discount, and how knobs are weighed.
    """
    lead = played.reward.ndim
    obs, raw = jax.tree.map(lambda a: a.reshape(-1, *a.shape[lead:]), (played.obs, played.raw))

    def of_round(obs, raw):
        _, knobs = policy.scores(theta, obs, raw)
        return policy.trust(theta, obs), knobs

    trust, knobs = jax.vmap(of_round)(obs, raw)
    earned = (trust.reshape(credits.shape) * credits).sum(axis=-1)
    weights = advantages(played.reward, config.discount, config)
    turned = (weights * knobs.reshape(played.reward.shape)).sum(axis=-1)
    return (discounted_return(earned, config.discount) + turned).mean()
