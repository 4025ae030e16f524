"""The leader adapts, the follower responds to it, both play: the inner loop of Algorithm 2."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player, Trajectory
from metasg_jax.learning.estimators import ESTIMATORS
from metasg_jax.learning.state import attacker_optimizer
from metasg_jax.struct import Struct
from metasg_jax.types import Key, Params

_ADAPT, _RESPOND, _PLAY = 0, 1, 2


class Inner(Struct):
    """What the inner loop of one type leaves behind.

    Attributes:
        defender: parameters of the adapted policy, theta_xi.
        attacker: parameters of the best response, phi_xi(N_A).
        opt_state: of the attacker's optimizer.
        gradient: the estimate of grad J_D at the adapted policy, from the last batch (line 16).
        first: the first batch, line 6's: the meta policy against the attacker as it was.
        played: the last batches [l + 1, E, G, H]: line 18's episodes, l steps of adaptation to the
            best response, then line 20's; or [1, ..], line 15's alone, where nothing is adapted
            again.
    """

    defender: Params
    attacker: Params
    opt_state: Any
    gradient: Params
    first: Trajectory
    played: Trajectory


def inner_loop(
    key: Key,
    game,
    xi,
    adaptive: jax.Array,
    defender: Player,
    attacker: Player,
    opt_state: Any,
    config: MetaConfig,
    adapt_again: bool = False,
) -> Inner:
    """Lines 6-15 of Algorithm 2 for one type, or lines 6-13 and 18-20.

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
        adapt_again: static. Before the last batch the meta policy is adapted afresh, to the
            attacker's best response: line 18 samples with phi(N_A), so line 21 is the gradient of
            L_D(theta, phi(N_A)) only if theta_xi is adapted on that batch too.
    """
    any_adaptive = any(game.prior.adaptive)
    kinds = [_ADAPT] * config.adapt_steps
    kinds += [_RESPOND] * (config.attacker_steps if any_adaptive else 0)
    restart = len(kinds) if adapt_again else -1
    kinds += [_ADAPT] * config.adapt_steps * adapt_again
    kinds += [_PLAY]
    estimate = ESTIMATORS[config.gradient]

    @jax.jit  # its trace is kept: one for the shapes, below, and the same for the program
    def run(carry, i, kind):
        theta, phi, opt = carry
        theta = jax.tree.map(lambda a, b: jnp.where(i == restart, a, b), defender.params, theta)
        leader, follower = defender.replace(params=theta), attacker.replace(params=phi)
        grad_theta, grad_phi, played = estimate(
            jax.random.fold_in(key, i), game, xi, leader, follower, kind != _RESPOND, config
        )

        def adapted():
            return optax.tree.add_scale(theta, config.adapt_lr, grad_theta), phi, opt

        def responded():
            return theta, *respond_step(phi, opt, grad_phi, config)

        carry = jax.lax.switch(kind, [adapted, responded, lambda: (theta, phi, opt)])
        return carry, (grad_theta, played)

    carry = (defender.params, attacker.params, opt_state)
    _, shapes = jax.eval_shape(run, carry, 0, 0)
    blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def phase(carry, scanned):
        i, kind = scanned
        skipped = (kind == _RESPOND) & ~adaptive
        return jax.lax.cond(skipped, lambda c: (c, blank), lambda c: run(c, i, kind), carry)

    phases = (jnp.arange(len(kinds)), jnp.array(kinds))
    (theta, phi, opt_state), (gradients, played) = jax.lax.scan(phase, carry, phases)
    last = config.adapt_steps * adapt_again + 1
    return Inner(
        defender=theta,
        attacker=phi,
        opt_state=opt_state,
        gradient=jax.tree.map(lambda leaf: leaf[-1], gradients),
        first=jax.tree.map(lambda leaf: leaf[0], played),
        played=jax.tree.map(lambda leaf: leaf[-last:], played),
    )


def respond_step(
    phi: Params, opt_state: Any, ascent: Params, config: MetaConfig
) -> tuple[Params, Any]:
    """One step of ascent on J_A (line 12): (phi, optimizer state)."""
    descent = optax.tree.scale(-1.0, ascent)
    updates, opt_state = attacker_optimizer(config).update(descent, opt_state, phi)
    return optax.apply_updates(phi, updates), opt_state
