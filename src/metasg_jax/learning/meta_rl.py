"""Algorithm 1: Reptile meta-reinforcement learning, against attackers that never respond."""

import jax
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player
from metasg_jax.learning.adaptation import adapt
from metasg_jax.learning.outer import (
    apply_pseudo_gradient,
    learn_normalizers,
    scan_types,
    summarize,
    type_weights,
    weighted_mean,
)
from metasg_jax.learning.state import MetaSGState, policies
from metasg_jax.types import Info, Key


def meta_rl_update(
    key: Key, state: MetaSGState, game, config: MetaConfig
) -> tuple[MetaSGState, Info]:
    """One step of Algorithm 1, Reptile meta-RL; pure. ``meta_rl_step`` is it, jitted.

    l steps of size kappa (``adapt_steps``, ``defender_lr``) from theta for each type, each on fresh
    episodes at the present parameters (errata of line 11); theta moves towards their average.
    ``phi`` stays what it was. Arguments and results as of
    :func:`~metasg_jax.learning.meta_sl.meta_sl_update`.

    Example:
        >>> from metasg_jax import MetaConfig, init_state, meta_rl_step
        >>> from metasg_jax.testing import bandit
        >>> game, config = bandit(), MetaConfig(algorithm="meta_rl", group_size=2)
        >>> state = init_state(jax.random.key(0), game, config)
        >>> state, info = meta_rl_step(jax.random.key(1), state, game, config)
        >>> state.num_steps
        1
    """
    policy_d, policy_a = policies(game, config)
    key_types, key_play = jax.random.split(key)
    weights = type_weights(key_types, game, config)

    def play(xi, phi):
        key_type = jax.random.fold_in(key_play, xi.index)
        defender = Player(state.theta, state.normalizer, policy_d)
        attacker = Player(phi, state.normalizer_A, policy_a)
        adapted, played = adapt(key_type, game, xi, defender, attacker, config.defender_lr, config)
        last = jax.tree.map(lambda leaf: leaf[-1], played)
        return adapted.params, last

    adapted, played = scan_types(game, play, weights, state.phi, skip_absent=config.num_types > 0)
    pseudo = optax.tree.sub(weighted_mean(weights, adapted), state.theta)
    theta, opt_d = apply_pseudo_gradient(state.theta, state.opt_D, pseudo, config)
    normalizer, normalizer_a = learn_normalizers(state, played, weights, config)
    change = optax.tree.sub(theta, state.theta)
    new_state = state.replace(
        theta=theta,
        opt_D=opt_d,
        normalizer=normalizer,
        normalizer_A=normalizer_a,
        step=state.step + 1,
    )
    return new_state, summarize(played, weights, theta, change)


meta_rl_step = jax.jit(meta_rl_update)
"""Jitted :func:`meta_rl_update`; nothing is donated."""
