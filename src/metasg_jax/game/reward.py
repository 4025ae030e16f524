"""Rewards of both players, all bounded (section 2.2 of the paper, as it has to be read).

The printed attacker's reward gives an untargeted attacker the defender's own wish; meant is
``r_A = -rho F' + (1 - rho) F``: raise the clean loss F, lower the backdoor's objective
``F' = lambda F(w, U) + (1 - lambda) F(w, U')``, with U' holding stamped images only.
"""

import jax
import jax.numpy as jnp
import optax

from metasg_jax.fl.data import stamp
from metasg_jax.struct import Struct
from metasg_jax.types import Deployed, Model

# lambda of F', as in the authors' later version
CLEAN_SHARE = 0.5


class Losses(Struct):
    """Measured on root images by the deployed copy, each in [0, 1].

    Attributes:
        clean: f32[], F.
        backdoor: f32[], F(w, U'): loss of the target label on stamped images of other classes.
        success: f32[], S: mean probability of the target label on the same.
    """

    clean: jax.Array
    backdoor: jax.Array
    success: jax.Array


def image_loss(logits: jax.Array, labels: jax.Array, kind: str) -> jax.Array:
    """Loss of each image, f32[R] in [0, 1].

    ``probability``: 1 - probability of the label. ``cross_entropy``: capped at 2 log C, over
    2 log C. A non-finite prediction counts 1.
    """
    if kind == "probability":
        probability = jax.nn.softmax(logits)[jnp.arange(labels.shape[0]), labels]
        loss = 1 - probability
    else:
        cap = 2 * jnp.log(logits.shape[-1])
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        loss = jnp.minimum(entropy, cap) / cap
    return jnp.where(jnp.isfinite(loss), loss, 1.0)


def measure(model: Model, deployed: Deployed, x, y, xi, kind: str) -> Losses:
    """The losses of a deployed model on images f32[R, h, w, c] against type ``xi``.

    The backdoor's cost nothing for a type without one (``xi.has_backdoor`` must not be batched).
    """
    logits = model.apply(deployed.params, x, deployed.clip)
    clean = image_loss(logits, y, kind).mean()

    def backdoor():
        stamped = stamp(x, xi.trigger_mask, xi.trigger_pattern)
        out = model.apply(deployed.params, stamped, deployed.clip)
        target = jnp.full_like(y, xi.target)
        others = (y != xi.target).astype(jnp.float32)
        others = others / jnp.maximum(others.sum(), 1.0)
        probability = 1 - image_loss(out, target, "probability")
        return others @ image_loss(out, target, kind), others @ probability

    none = (jnp.ones((), jnp.float32), jnp.zeros((), jnp.float32))
    loss, success = jax.lax.cond(xi.has_backdoor, backdoor, lambda: none)
    return Losses(clean, loss, success)


def defender_reward(losses: Losses, kind: str, backdoor_weight) -> jax.Array:
    """``clean``: -F (the paper). ``clean+backdoor``: -F - weight * S. In [-1 - weight, 0]."""
    if kind == "clean":
        return -losses.clean
    return -losses.clean - backdoor_weight * losses.success


def attacker_reward(losses: Losses, rho: jax.Array, sampled: jax.Array) -> jax.Array:
    """``-rho F' + (1 - rho) F``, in [-1, 1]; 0 in a round that sampled no malicious client."""
    f_prime = CLEAN_SHARE * losses.clean + (1 - CLEAN_SHARE) * losses.backdoor
    reward = -rho * f_prime + (1 - rho) * losses.clean
    return jnp.where(sampled, reward, 0.0)


def attacker_ceiling(rho: jax.Array, num_malicious: jax.Array) -> jax.Array:
    """The most an attacker can earn in a round, 1 - rho; 0 for the type without attackers."""
    return jnp.where(num_malicious > 0, 1 - rho, 0.0)


def worst_losses(has_backdoor: jax.Array) -> Losses:
    """What a diverged global model counts as: nothing right, the backdoor in full success."""
    success = jnp.asarray(has_backdoor, jnp.float32)
    return Losses(clean=jnp.ones((), jnp.float32), backdoor=1 - success, success=success)
