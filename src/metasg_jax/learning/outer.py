"""What both algorithms share: weights of the types, the outer update, what is reported."""

import math

import jax
import jax.numpy as jnp
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.fl.axes import over
from metasg_jax.game.rollout import Trajectory
from metasg_jax.learning.state import MetaSGState, outer_optimizer
from metasg_jax.types import Info, Key, Params


def type_weights(key: Key, game, config: MetaConfig) -> jax.Array:
    """The weight f32[K] of each type in this meta-step, of sum 1.

    The prior itself, or the shares of ``config.num_types`` draws from it: a type drawn twice counts
    twice and is played once.
    """
    q = game.prior.probabilities
    if config.num_types == 0:
        return q
    draws = jax.random.categorical(key, jnp.log(q), shape=(config.num_types,))
    return jnp.zeros_like(q).at[draws].add(1 / config.num_types)


def scan_types(game, play, weights: jax.Array, *inputs, skip_absent: bool, index=None):
    """Calls ``play(xi, *inputs of the place)`` for each type, one after another.

    The scan's counter is never batched, not even under vmap over seeds, so that the attack's
    ``switch`` and the ``cond`` on adaptive types stay real branches. Devices of the mesh's axis
    ``types`` scan over a part of them each.

    Args:
        game: whose prior is enumerated.
        play: returns a pytree.
        weights: f32[K].
        inputs: pytrees with leading axis K.
        skip_absent: static; types of weight 0 give zeros and cost nothing.
        index: i32[K], which type of the prior each is; by default the prior's types, in order.

    Returns:
        play's results with a leading axis K.
    """
    if skip_absent:
        play = jax.jit(play)  # its trace is kept: one for the shapes and for the program

    def body(_, scanned):
        i, weight, values = scanned
        xi = game.prior[i]
        if not skip_absent:
            return None, play(xi, *values)
        shapes = jax.eval_shape(play, xi, *values)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return None, jax.lax.cond(weight > 0, lambda: play(xi, *values), lambda: zeros)

    counter = jnp.arange(weights.shape[0], dtype=jnp.int32)
    index = counter if index is None else index
    scanned = (index, weights, inputs)
    return over("types", lambda part: jax.lax.scan(body, None, part)[1], scanned)


def weighted_mean(weights: jax.Array, tree: Params) -> Params:
    """``sum_k weights_k leaf_k`` over the leading axis K."""
    return jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, axes=1), tree)


def apply_pseudo_gradient(theta: Params, opt_state, pseudo_gradient: Params, config: MetaConfig):
    """One outer update of theta, uphill. Returns (theta, optimizer state)."""
    descent = optax.tree.scale(-1.0, pseudo_gradient)
    updates, opt_state = outer_optimizer(config).update(descent, opt_state, theta)
    return optax.apply_updates(theta, updates), opt_state


def learn_normalizers(
    state: MetaSGState, played: Trajectory, weights: jax.Array, config: MetaConfig
):
    """The normalisers after this step's episodes [K, ...]; each type counts by its weight."""
    if not config.normalize:
        return state.normalizer, state.normalizer_A

    shape = played.defender.reward.shape  # [K, E, G, H]
    several = math.prod(shape[1:])
    each = jnp.repeat(weights, several)

    def learn(normalizer, obs):
        flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[len(shape) :]), obs)
        return normalizer.update(flat, each)

    return (
        learn(state.normalizer, played.defender.raw_obs),
        learn(state.normalizer_A, played.attacker.raw_obs),
    )


def summarize(
    played: Trajectory, weights: jax.Array, theta: Params, change: Params, kinds: int | None = None
) -> Info:
    """What a meta-step reports: per type (axis K) and over all that were met.

    ``played`` may hold others after the prior's first ``kinds`` types: they count in what is over
    all. ``return_*`` is the mean reward per round, ``final_*`` that of the episodes' last tenth.
    """
    k = weights.shape[0]

    def per_type(a):
        return a.reshape(k, -1).mean(axis=1)

    horizon = played.defender.reward.shape[-1]
    tail = max(1, horizon // 10)
    per = {
        "return_D": per_type(played.defender.reward),
        "return_A": per_type(played.attacker.reward),
        "final_D": per_type(played.defender.reward[..., -tail:]),
        "loss": per_type(played.info["loss"][..., -tail:]) if "loss" in played.info else None,
        "diverged": per_type(played.info["diverged"][..., -1].astype(jnp.float32))
        if "diverged" in played.info
        else None,
    }
    per = {name: value for name, value in per.items() if value is not None}
    finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(theta)]).all()
    return {
        **{f"type/{name}": value[:kinds] for name, value in per.items()},
        **{name: weights @ value for name, value in per.items()},
        "update_norm": optax.tree.norm(change),
        "finite": finite,
    }
