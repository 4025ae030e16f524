"""Main-task accuracy, attack success rate, and the score that tables are made of."""

import jax
import jax.numpy as jnp

from metasg_jax.fl.data import stamp, to_unit
from metasg_jax.struct import Struct
from metasg_jax.types import Deployed, Model

# images a forward pass holds at once; bounds memory for convolutional networks
_CHUNK = 1000


class Metrics(Struct):
    """How well one deployed model does against one type of attackers.

    Attributes:
        accuracy: f32[] in [0, 1], on clean images.
        asr: f32[] in [0, 1], share of the stamped images of other classes that get the target
            label; NaN for types without a backdoor.
        score: f32[] in [-1, 1], accuracy, minus ASR for types with a backdoor.
        diverged: bool[]; then accuracy counts 0 and ASR 1.
    """

    accuracy: jax.Array
    asr: jax.Array
    score: jax.Array
    diverged: jax.Array


def predict(model: Model, deployed: Deployed, images: jax.Array) -> jax.Array:
    """Predicted labels i32[T] of images f32[T, h, w, c], in chunks."""

    def labels(x):
        return jnp.argmax(model.apply(deployed.params, x[None], deployed.clip)[0])

    return jax.lax.map(labels, images, batch_size=min(_CHUNK, images.shape[0]))


def measure_deployed(
    model: Model, deployed: Deployed, images: jax.Array, labels: jax.Array, xi, diverged
) -> Metrics:
    """Metrics of a deployed model on images u8[T, h, w, c] with labels i32[T].

    Raises nothing for a non-finite model: pass ``diverged`` and it earns the floor.
    """
    x = to_unit(images)
    accuracy = (predict(model, deployed, x) == labels).mean()

    def success():
        stamped = stamp(x, xi.trigger_mask, xi.trigger_pattern)
        others = labels != xi.target
        hit = (predict(model, deployed, stamped) == xi.target) & others
        return hit.sum() / jnp.maximum(others.sum(), 1)

    asr = jax.lax.cond(xi.has_backdoor, success, lambda: jnp.zeros((), jnp.float32))
    accuracy = jnp.where(diverged, 0.0, accuracy)
    asr = jnp.where(diverged & xi.has_backdoor, 1.0, asr)
    return Metrics(
        accuracy=accuracy,
        asr=jnp.where(xi.has_backdoor, asr, jnp.nan),
        score=accuracy - asr,
        diverged=diverged,
    )
