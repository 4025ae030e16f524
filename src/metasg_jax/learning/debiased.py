"""The gradient of L_D and L_A through the adaptation: the debiased branch of Algorithm 2.

``L_D(theta, phi) = E J_D(theta_l)`` with ``theta_0 = theta``, ``theta_(k+1) = theta_k + eta g_k``.
There are two objectives, by what g_k is, and (C4) with (C5) as printed mixes them:

=================  ================  =====================  ====================================
objective          g_k               score of the batches   derivative of g_k in theta_k
=================  ================  =====================  ====================================
``sampled``        from a batch      yes                    ``grad g``: episodes held fixed
``exact``          grad J(theta_k)   no                     (C5): ``grad g + g grad log q^T``
``printed``        from a batch      yes                    (C5)
=================  ================  =====================  ====================================

With a sampled g_k the score already differentiates the sampling law, and (C5)'s second term counts
it again: ``printed`` is biased. Every derivative is reverse-mode through the steps themselves, so
each step costs a Hessian-vector product and no d x d matrix exists.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Played
from metasg_jax.learning.estimators import discounted_return, log_probs, policy_gradient
from metasg_jax.learning.estimators.score import weighted_log_prob
from metasg_jax.types import Params, Policy

Objective = Literal["sampled", "exact", "printed"]


def replay(
    policy: Policy,
    theta: Params,
    batches: Played,
    config: MetaConfig,
    curvature: bool,
    path: Params | None = None,
) -> tuple[Params, jax.Array]:
    """The adapted parameters as a differentiable function of ``theta``; and the batches' log law.

    Args:
        policy: the defender's, static.
        theta: the meta policy.
        batches: leaves [l, E, G, H, ...], batch k sampled at theta_k.
        config: eta and estimator.
        curvature: static; whether a step's derivative is (C5), else the episodes are held fixed.
        path: theta_1 .. theta_l, leaves [l, ...], where the steps lead to others than the batches'
            own gradients do: their values, with the derivatives of the sampled steps.

    Returns:
        (theta_l, log q of all episodes of all batches f32[]).
    """

    def step(params, scanned):
        batch, arrived = scanned
        log_q = log_probs(policy, params, batch).sum(axis=-1)
        # 1 in value; its derivative is the score, which turns grad g into (C5)
        factors = jnp.exp(log_q - jax.lax.stop_gradient(log_q)) if curvature else 1.0
        gradient = policy_gradient(policy, params, batch, config, factors)
        params = optax.tree.add_scale(params, config.adapt_lr, gradient)
        if arrived is not None:
            params = jax.tree.map(lambda a, p: a + p - jax.lax.stop_gradient(p), arrived, params)
        return params, log_q.sum()

    theta, log_q = jax.lax.scan(step, theta, (batches, path))
    return theta, log_q.sum()


def meta_gradient(
    policy: Policy,
    theta: Params,
    batches: Played,
    final: Played,
    baseline: jax.Array,
    config: MetaConfig,
    objective: Objective = "sampled",
    path: Params | None = None,
) -> Params:
    """The estimate of grad L_D in theta, lines 18-21 of Algorithm 2, for l steps of adaptation.

    Args:
        policy: the defender's, static.
        theta: the meta policy.
        batches: its side of the episodes that it was adapted on, leaves [l, E, G, H, ...].
        final: its side of the episodes of the adapted policy, leaves [E, G, H, ...].
        baseline: f32[], subtracted from the adapted policy's return in the score's factor; must be
            independent of ``batches``, so that the estimate stays unbiased. Not read by ``exact``.
        config: eta and estimator.
        objective: static, see the module. For ``exact`` to be unbiased the policy must have been
            adapted by exact gradients.
        path: the adapted parameters theta_1 .. theta_l, leaves [l, ...], where they are others than
            those of the batches' own gradients.
    """

    def surrogate(theta):
        curvature = objective != "sampled"
        end, log_q = replay(policy, theta, batches, config, curvature, path)
        value = weighted_log_prob(policy, end, final, config)
        if objective == "exact":
            return value
        gain = discounted_return(final.reward, config.discount).mean() - baseline
        return value + gain * log_q

    return jax.grad(surrogate)(theta)


def log_law(policy: Policy, params: Params, batches: Played) -> jax.Array:
    """Log probability f32[] of a player's part in all episodes of batches [l, E, G, H, ...]."""
    return jax.vmap(lambda batch: log_probs(policy, params, batch))(batches).sum()


def attacker_meta_gradient(
    policy: Policy,
    phi: Params,
    batches: Played,
    final: Played,
    baseline: jax.Array,
    config: MetaConfig,
    full: bool = True,
) -> Params:
    """The estimate of grad L_A in phi: of what the attacker earns against the adapted defender.

    phi moves the final episodes, and, in ``full``, the episodes that the defender adapts to as
    well, through their law. Without it the adapted policy is held fixed, as line 12 does.

    Args:
        policy: the attacker's, static.
        phi: its parameters.
        batches: its side of the episodes of the adaptation, leaves [l, E, G, H, ...].
        final: its side of the last episodes, leaves [E, G, H, ...].
        baseline: f32[], as in :func:`meta_gradient`, of the attacker's return.
        config: estimator.
        full: static.
    """

    def surrogate(phi):
        value = weighted_log_prob(policy, phi, final, config)
        if not full:
            return value
        gain = discounted_return(final.reward, config.discount).mean() - baseline
        return value + gain * log_law(policy, phi, batches)

    return jax.grad(surrogate)(phi)
