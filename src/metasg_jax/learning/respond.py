"""Best responses to a defender that stands still: lines 10-12 of Algorithm 2 alone."""

import jax
import jax.numpy as jnp
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player, Trajectory, rollout_groups
from metasg_jax.learning.best_response import respond_step
from metasg_jax.learning.estimators import advantages, log_probs, surrogate
from metasg_jax.learning.outer import learn_normalizers, scan_types, summarize, type_weights
from metasg_jax.learning.state import MetaSGState, policies
from metasg_jax.types import Info, Key, Policy


def best_response_update(
    key: Key, state: MetaSGState, game, config: MetaConfig
) -> tuple[MetaSGState, Info]:
    """``config.attacker_steps`` batches of ascent on J_A for each adaptive type; pure, not jitted.

    The defender plays the mode of ``theta``, or as ``config.randomized`` says a sample, and learns
    nothing; of a rule without knobs it is never asked. A batch serves ``config.epochs`` steps of
    the clipped likelihood ratio, by the score estimator. Types that aren't adaptive are played and
    stay as they are.

    Args:
        key: consumed.
        state: the learner's; ``theta`` and the defender's normaliser stay.
        game: any game with a prior; arrays traced, kinds static.
        config: counts and kinds static, step sizes traced.

    Returns:
        (state, info), as :func:`~metasg_jax.learning.meta_sl.meta_sl_update`.
    """
    policy_d, policy_a = policies(game, config)
    weights = type_weights(key, game, config.replace(num_types=0))
    adaptive = jnp.array(game.prior.adaptive)
    defender = Player(state.theta, state.normalizer, policy_d, greedy=not config.randomized)

    def play(xi, phi, opt):
        key_type = jax.random.fold_in(key, xi.index)

        def batch(carry, i):
            phi, opt = carry
            attacker = Player(phi, state.normalizer_A, policy_a)
            played = rollout_groups(
                jax.random.fold_in(key_type, i), game, xi, defender, attacker,
                config.num_groups, config.group_size, config.rollouts_at_once,
            )  # fmt: skip
            carry = jax.lax.cond(
                adaptive[xi.index],
                lambda: ascend(policy_a, phi, opt, played, config),
                lambda: (phi, opt),
            )
            return carry, played

        (phi, opt), played = jax.lax.scan(batch, (phi, opt), jnp.arange(config.attacker_steps))
        return phi, opt, jax.tree.map(lambda leaf: leaf[-1], played)

    phi, opt_a, played = scan_types(game, play, weights, state.phi, state.opt_A, skip_absent=False)
    _, normalizer_a = learn_normalizers(state, played, weights, config)
    change = optax.tree.sub(phi, state.phi)
    new_state = state.replace(phi=phi, opt_A=opt_a, normalizer_A=normalizer_a, step=state.step + 1)
    return new_state, summarize(played, weights, phi, change)


def ascend(policy: Policy, phi, opt_state, played: Trajectory, config: MetaConfig):
    """Steps on one batch of episodes: (phi, optimizer state).

    A round that sampled none of the attacker's clients has no action of his: its score counts 0.
    """
    side = played.attacker
    weights = advantages(side.reward, config.discount, config)
    if "malicious" in played.info:
        weights = jnp.where(played.info["malicious"] > 0, weights, 0.0)
    behaviour = log_probs(policy, phi, side)

    def epoch(carry, _):
        phi, opt = carry
        gradient = jax.grad(surrogate, argnums=1)(
            policy, phi, side, weights, behaviour, config.ratio_clip
        )
        return respond_step(phi, opt, gradient, config), None

    return jax.lax.scan(epoch, (phi, opt_state), None, length=config.epochs)[0]


best_response_step = jax.jit(best_response_update)
"""Jitted :func:`best_response_update`; nothing is donated."""
