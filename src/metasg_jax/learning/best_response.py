"""The leader adapts, the follower responds to it, both play: the inner loop of Algorithm 2."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player, Trajectory, rollout_groups
from metasg_jax.learning.adaptation import adapt_step
from metasg_jax.learning.estimators import policy_gradient
from metasg_jax.learning.state import attacker_optimizer
from metasg_jax.types import Key

_ADAPT, _RESPOND, _PLAY = 0, 1, 2


def respond_step(
    attacker: Player, opt_state: Any, played: Trajectory, config: MetaConfig
) -> tuple[Player, Any]:
    """One step of ascent on J_A, from episodes [E, G, H] that ``attacker`` has played (line 12)."""
    ascent = policy_gradient(attacker.policy, attacker.params, played.attacker, config)
    updates, opt_state = attacker_optimizer(config).update(
        optax.tree.scale(-1.0, ascent), opt_state, attacker.params
    )
    return attacker.replace(params=optax.apply_updates(attacker.params, updates)), opt_state


def inner_loop(
    key: Key,
    game,
    xi,
    adaptive: jax.Array,
    defender: Player,
    attacker: Player,
    opt_state: Any,
    config: MetaConfig,
) -> tuple[Player, Player, Any, Trajectory]:
    """Lines 6-15 of Algorithm 2 for one type.

    ``adapt_steps`` steps of the defender against the attacker as it was, then ``attacker_steps``
    steps of an adaptive attacker against the adapted defender, then a batch of both. One scan over
    these phases, not three calls: episodes are what compiles slowly, and so they compile once.

    Args:
        key: consumed.
        game: the game.
        xi: the type.
        adaptive: bool[], whether the attacker can respond; must not be batched, so that types that
            can't skip these phases.
        defender: the meta policy.
        attacker: as this type's last meta-step left it.
        opt_state: of the attacker's optimizer.
        config: the learner's settings.

    Returns:
        (adapted defender, attacker, optimizer state, episodes [E, G, H] of both).
    """
    any_adaptive = any(game.prior.adaptive)
    kinds = [_ADAPT] * config.adapt_steps
    kinds += [_RESPOND] * (config.attacker_steps if any_adaptive else 0)
    kinds += [_PLAY]

    @jax.jit  # its trace is kept: one for the shapes, below, and the same for the program
    def play(key, theta, phi) -> Trajectory:
        return rollout_groups(
            key,
            game,
            xi,
            defender.replace(params=theta),
            attacker.replace(params=phi),
            config.num_groups,
            config.group_size,
            config.rollouts_at_once,
        )

    def phase(carry, scanned):
        i, kind = scanned

        def run(theta, phi, opt, _):
            played = play(jax.random.fold_in(key, i), theta, phi)

            def adapted():
                leader = defender.replace(params=theta)
                return adapt_step(leader, played, config.adapt_lr, config).params, phi, opt

            def responded():
                follower = attacker.replace(params=phi)
                follower, new_opt = respond_step(follower, opt, played, config)
                return theta, follower.params, new_opt

            after = jax.lax.switch(kind, [adapted, responded, lambda: (theta, phi, opt)])
            return *after, played

        skipped = (kind == _RESPOND) & ~adaptive
        return jax.lax.cond(skipped, lambda *same: same, run, *carry), None

    shapes = jax.eval_shape(play, key, defender.params, attacker.params)
    blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    carry = (defender.params, attacker.params, opt_state, blank)
    carry, _ = jax.lax.scan(phase, carry, (jnp.arange(len(kinds)), jnp.array(kinds)))
    theta, phi, opt_state, played = carry
    return defender.replace(params=theta), attacker.replace(params=phi), opt_state, played
