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

_ADAPT, _RESPOND, _PLAY, _PLAY_UNADAPTED = 0, 1, 2, 3


class Inner(Struct):
    """What the inner loop of one type leaves behind.

    Attributes:
        defender: parameters of the adapted policy, theta_xi.
        attacker: parameters of the best response, phi_xi(N_A).
        opt_state: of the attacker's optimizer.
        gradient: the estimate of grad J_D at the adapted policy, from ``played`` (line 16).
        played: both players' last batch [E, G, H], of line 15 or 20.
        again: with ``adapt_again``, line 18's batches [l, E, G, H], which the meta policy was
            adapted on to the best response; else None.
        unadapted: with ``adapt_again``, the meta policy in the place of the adapted one in
            ``played``, under the same random numbers; else None.
    """

    defender: Params
    attacker: Params
    opt_state: Any
    gradient: Params
    played: Trajectory
    again: Trajectory | None
    unadapted: Trajectory | None


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
            L_D(theta, phi(N_A)) only if theta_xi is adapted on that batch too. After it the meta
            policy plays under the same random numbers, for the baseline of that gradient.
    """
    any_adaptive = any(game.prior.adaptive)
    kinds = [_ADAPT] * config.adapt_steps
    kinds += [_RESPOND] * (config.attacker_steps if any_adaptive else 0)
    restart = len(kinds) if adapt_again else -1
    kinds += [_ADAPT] * config.adapt_steps * adapt_again
    last = len(kinds)
    kinds += [_PLAY]
    kinds += [_PLAY_UNADAPTED] * adapt_again
    estimate = ESTIMATORS[config.gradient]

    @jax.jit  # its trace is kept: one for the shapes, below, and the same for the program
    def run(carry, i, kind):
        theta, phi, opt = carry
        from_meta = (i == restart) | (kind == _PLAY_UNADAPTED)
        plays = jax.tree.map(lambda a, b: jnp.where(from_meta, a, b), defender.params, theta)
        leader, follower = defender.replace(params=plays), attacker.replace(params=phi)
        key_phase = jax.random.fold_in(key, jnp.minimum(i, last))
        grad_theta, grad_phi, played = estimate(
            key_phase, game, xi, leader, follower, kind != _RESPOND, config
        )

        def adapted():
            return optax.tree.add_scale(plays, config.adapt_lr, grad_theta), phi, opt

        def responded():
            return theta, *respond_step(phi, opt, grad_phi, config)

        def neither():
            return theta, phi, opt

        carry = jax.lax.switch(kind, [adapted, responded, neither, neither])
        return carry, (grad_theta, played)

    carry = (defender.params, attacker.params, opt_state)
    # as the scan hands them in: a Python number is of another type, and makes another trace
    number = jax.ShapeDtypeStruct((), jnp.int32)
    _, shapes = jax.eval_shape(run, carry, number, number)
    blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def phase(carry, scanned):
        i, kind = scanned
        skipped = (kind == _RESPOND) & ~adaptive
        return jax.lax.cond(skipped, lambda c: (c, blank), lambda c: run(c, i, kind), carry)

    phases = (jnp.arange(len(kinds)), jnp.array(kinds))
    (theta, phi, opt_state), (gradients, played) = jax.lax.scan(phase, carry, phases)

    def at(index, tree=played):
        return jax.tree.map(lambda leaf: leaf[index], tree)

    return Inner(
        defender=theta,
        attacker=phi,
        opt_state=opt_state,
        gradient=at(last, gradients),
        played=at(last),
        again=at(slice(restart, last)) if adapt_again else None,
        unadapted=at(last + 1) if adapt_again else None,
    )


def respond_step(
    phi: Params, opt_state: Any, ascent: Params, config: MetaConfig
) -> tuple[Params, Any]:
    """One step of ascent on J_A (line 12): (phi, optimizer state)."""
    descent = optax.tree.scale(-1.0, ascent)
    updates, opt_state = attacker_optimizer(config).update(descent, opt_state, phi)
    return optax.apply_updates(phi, updates), opt_state
