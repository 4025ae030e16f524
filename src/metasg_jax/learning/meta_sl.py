"""Algorithm 2: (Reptile) meta-Stackelberg learning."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Normalizer, Player
from metasg_jax.learning.best_response import Inner, inner_loop
from metasg_jax.learning.debiased import Objective, meta_gradient
from metasg_jax.learning.estimators import advantages, discounted_return, log_probs, surrogate
from metasg_jax.learning.outer import (
    apply_pseudo_gradient,
    learn_normalizers,
    scan_types,
    summarize,
    type_weights,
    weighted_mean,
)
from metasg_jax.learning.state import MetaSGState, policies
from metasg_jax.struct import Struct
from metasg_jax.types import Info, Key, Params, Policy


def meta_sl_update(
    key: Key, state: MetaSGState, game, config: MetaConfig
) -> tuple[MetaSGState, Info]:
    """One step of Algorithm 2, meta-Stackelberg learning; pure. ``meta_sl_step`` is it, jitted.

    For each type of the prior: adapt the meta policy to it (lines 6-8), let an adaptive attacker
    respond to the adapted policy (9-13), play both (15), the debiased branch after adapting to that
    response (18, 20). Then the outer update (16 or 21, 23-25).

    Args:
        key: consumed.
        state: the learner's.
        game: any game with a prior; arrays traced, kinds static.
        config: counts and kinds static, step sizes traced.

    Returns:
        (state, info): info holds scalars, and vectors over types under ``type/``.

    Example:
        >>> from metasg_jax import MetaConfig, init_state, meta_sl_step
        >>> from metasg_jax.testing import matrix_game
        >>> game, config = matrix_game(), MetaConfig(group_size=2)
        >>> state = init_state(jax.random.key(0), game, config)
        >>> state, info = meta_sl_step(jax.random.key(1), state, game, config)
        >>> state.num_steps, info["type/return_D"].shape
        (1, (1,))
    """
    policy_d, policy_a = policies(game, config)
    key_types, key_play = jax.random.split(key)
    weights = type_weights(key_types, game, config)
    kinds = len(game.prior)
    update = OUTER[config.outer]
    met = Met(
        place=jnp.arange(kinds, dtype=jnp.int32),
        adaptive=jnp.array(game.prior.adaptive),
        phi=state.phi,
        normalizer=jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (kinds, *leaf.shape)), state.normalizer_A
        ),
        opt=state.opt_A,
    )
    index = jnp.arange(kinds, dtype=jnp.int32)
    if state.population is not None:
        met, index, weights = join_population(met, weights, state, config)

    def play(xi, met):
        defender = Player(state.theta, state.normalizer, policy_d)
        attacker = Player(met.phi, met.normalizer, policy_a)
        # the place is a loop counter, so that types which can't respond skip the work
        key_type = jax.random.fold_in(key_play, met.place)
        return inner_loop(
            key_type, game, xi, met.adaptive, defender, attacker, met.opt, config,
            adapt_again=config.adapts_again,
        )  # fmt: skip

    skip = config.num_types > 0 or state.population is not None
    inner = scan_types(game, play, weights, met, skip_absent=skip, index=index)
    phi, opt_a = jax.tree.map(lambda leaf: leaf[:kinds], (inner.attacker, inner.opt_state))
    if skip:
        # types that were not drawn keep what they had
        drawn = weights[:kinds] > 0
        phi, opt_a = jax.tree.map(
            lambda new, old: jnp.where(drawn.reshape((-1,) + (1,) * (new.ndim - 1)), new, old),
            (phi, opt_a),
            (state.phi, state.opt_A),
        )
    theta, opt_d = update(policy_d, state, inner, weights, config)
    normalizer, normalizer_a = learn_normalizers(state, inner.played, weights, config)
    change = optax.tree.sub(theta, state.theta)
    new_state = state.replace(
        theta=theta,
        phi=phi,
        opt_D=opt_d,
        opt_A=opt_a,
        normalizer=normalizer,
        normalizer_A=normalizer_a,
        step=state.step + 1,
    )
    return new_state, summarize(inner.played, weights, theta, change, kinds)


class Met(Struct):
    """The attackers that a meta-step meets, stacked: those of the prior's types, then others.

    Attributes:
        place: i32[], of each.
        adaptive: bool[], whether it responds now.
        phi: its policy's parameters.
        normalizer: of its observations.
        opt: state of its optimizer.
    """

    place: jax.Array
    adaptive: jax.Array
    phi: Params
    normalizer: Normalizer
    opt: Any


def join_population(met: Met, weights: jax.Array, state: MetaSGState, config: MetaConfig):
    """(met, index i32[K + P], weights f32[K + P]) with the population after the prior's types.

    Its attackers stand still. They share ``config.population_share`` evenly; while there are none
    the prior has all the weight.
    """
    population = state.population
    assert population is not None
    kinds, size = weights.shape[0], population.size
    first = jax.tree.map(lambda leaf: leaf[0], state.opt_A)
    members = Met(
        place=kinds + jnp.arange(size, dtype=jnp.int32),
        adaptive=jnp.zeros((size,), bool),
        phi=population.phi,
        normalizer=population.normalizer,
        opt=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)), first),
    )
    count = population.present.sum()
    share = jnp.where(count > 0, config.population_share, 0.0)
    own = share * population.present / jnp.maximum(count, 1)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), met, members)
    index = jnp.concatenate([jnp.arange(kinds, dtype=jnp.int32), population.index])
    return both, index, jnp.concatenate([(1 - share) * weights, own])


def gradients_at(policy: Policy, inner: Inner, config: MetaConfig):
    """Params [K, ..] -> grad J_D at each type's own, by the last batch of each.

    One step needs the estimate that came with the batch; more take the clipped likelihood ratio.
    """
    if config.epochs == 1:
        return lambda params: inner.gradient
    side = inner.played.defender
    step_weights = jax.vmap(lambda r: advantages(r, config.discount, config))(side.reward)
    behaviour = jax.vmap(lambda p, s: log_probs(policy, p, s))(inner.defender, side)

    def one(params, side, step_weights, behaviour):
        return jax.grad(surrogate, argnums=1)(
            policy, params, side, step_weights, behaviour, config.ratio_clip
        )

    return lambda params: jax.vmap(one)(params, side, step_weights, behaviour)


def fomaml(policy: Policy, state: MetaSGState, inner: Inner, weights, config: MetaConfig):
    """Line 23 as printed: theta moves by the gradients taken at the adapted policies.

    With several epochs the types' offsets from theta stay fixed while theta moves.
    """
    gradients = gradients_at(policy, inner, config)
    offset = jax.tree.map(lambda a, t: a - t[None], inner.defender, state.theta)

    def epoch(carry, _):
        theta, opt = carry
        at = jax.tree.map(lambda t, o: t[None] + o, theta, offset)
        mean = weighted_mean(weights, gradients(at))
        return apply_pseudo_gradient(
            theta, opt, optax.tree.scale(config.defender_lr, mean), config
        ), None

    return jax.lax.scan(epoch, (state.theta, state.opt_D), None, length=config.epochs)[0]


def reptile(policy: Policy, state: MetaSGState, inner: Inner, weights, config: MetaConfig):
    """Section 4.1: theta moves towards the average of the policies adapted once more."""
    gradients = gradients_at(policy, inner, config)

    def epoch(params, _):
        return optax.tree.add_scale(params, config.defender_lr, gradients(params)), None

    final, _ = jax.lax.scan(epoch, inner.defender, None, length=config.epochs)
    pseudo = optax.tree.sub(weighted_mean(weights, final), state.theta)
    return apply_pseudo_gradient(state.theta, state.opt_D, pseudo, config)


def debiased(
    policy: Policy,
    state: MetaSGState,
    inner: Inner,
    weights,
    config: MetaConfig,
    objective: Objective = "sampled",
):
    """Lines 18-23: theta moves by the gradient of L_D, through the adaptation.

    The score's baseline is what the meta policy earns in the place of the adapted one, under the
    same random numbers: it depends on nothing that was adapted on, and follows the adapted
    policy's return closely.
    """
    assert inner.again is not None and inner.unadapted is not None

    def one(again, final, unadapted):
        baseline = discounted_return(unadapted.reward, config.discount).mean()
        return meta_gradient(policy, state.theta, again, final, baseline, config, objective)

    sides = (inner.again.defender, inner.played.defender, inner.unadapted.defender)
    mean = weighted_mean(weights, jax.vmap(one)(*sides))
    return apply_pseudo_gradient(
        state.theta, state.opt_D, optax.tree.scale(config.defender_lr, mean), config
    )


OUTER = {
    "fomaml": fomaml,
    "reptile": reptile,
    "debiased": debiased,
    "debiased_exact": functools.partial(debiased, objective="exact"),
}

meta_sl_step = jax.jit(meta_sl_update)
"""Jitted :func:`meta_sl_update`: ``(key, state, game, config) -> (state, info)``.

Nothing is donated: ``state`` stays usable. A new game or new step sizes of the same shapes and
kinds do not recompile.
"""
