"""Reverse engineering of backdoor triggers from a model and a few clean images.

Wang et al., "Neural Cleanse", IEEE S&P 2019: for every label, the smallest mask and pattern that
send images of other classes to it; a label that takes a far smaller mask than the others is
suspected. A second search, of our own, asks how many images a mask of a trigger's size can send:
that is what the success of an unknown trigger is estimated by.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from metasg_jax.game.reward import stamp
from metasg_jax.struct import Struct
from metasg_jax.types import Deployed, Key, Model

# a normal sample's standard deviation over its median absolute deviation
_MAD_TO_DEVIATION = 1.4826
# logit of a mask at the start: a share of 0.12 of each pixel
_START = -2.0


class Inverted(Struct):
    """Triggers found, one a label.

    Attributes:
        mask: f32[C, h, w, 1] in [0, 1], the smallest that met the threshold; where none did, the
            most successful.
        pattern: f32[C, h, w, c] in [0, 1]; a stamped image is ``(1 - mask) x + mask pattern``.
        size: f32[C], L1 norm of the mask.
        success: f32[C], share of the root images of other classes that it sends to the label.
        anomaly: f32[C], how far ``size`` lies below the labels' median, in deviations estimated by
            their median absolute deviation; Neural Cleanse suspects above 2.
        budgeted: f32[C], largest success of a mask whose L1 norm is at most the budget.
        suspect: i32[], the label of the largest ``budgeted``.
        asr: f32[] in [0, 1], estimated attack success rate towards ``suspect``.
    """

    mask: jax.Array
    pattern: jax.Array
    size: jax.Array
    success: jax.Array
    anomaly: jax.Array
    budgeted: jax.Array
    suspect: jax.Array
    asr: jax.Array


class _Found(Struct):
    """The best mask f32[h, w, 1] on the way, its pattern, L1 norm and success."""

    mask: jax.Array
    pattern: jax.Array
    size: jax.Array
    success: jax.Array


class _Search(Struct):
    """What differs between searches of one label; each a number."""

    label: jax.Array
    budget: jax.Array
    cost: jax.Array
    threshold: jax.Array


@functools.partial(jax.jit, static_argnames=("model", "steps"))
def invert_triggers(
    key: Key,
    model: Model,
    deployed: Deployed,
    root_x: jax.Array,
    root_y: jax.Array,
    *,
    steps: int = 100,
    lr: float = 0.1,
    cost: float = 0.01,
    pace: float = 1.1,
    threshold: float = 0.99,
    budget: float = 9.0,
) -> Inverted:
    """Searches a trigger for each label, all labels at once.

    The first search minimises ``mean CE(f((1 - m) x + m p), label) + lambda |m|_1`` over masks m
    and patterns p by Adam, x the root images of other classes. lambda is multiplied by ``pace``
    after a step whose success reached ``threshold``, else divided. The second search has lambda 0
    and scales its mask down to ``|m|_1 <= budget``.

    The estimate takes success alone for no evidence: a model without a backdoor also has masks of
    nine pixels that send half of its images somewhere. See :func:`estimate_asr`.

    Args:
        key: consumed; draws the starting points.
        model: static.
        deployed: parameters and bounds; both are in force.
        root_x: f32[R, h, w, c] clean images.
        root_y: i32[R].
        steps: of Adam, static.
        lr: of Adam, on logits of mask and pattern.
        cost: positive, lambda at the start.
        pace: above 1.
        threshold: in [0, 1], success that a mask needs.
        budget: positive, L1 norm of a typical trigger's mask: its number of pixels.

    Returns:
        See :class:`Inverted`. Nothing is raised for non-finite parameters: nothing is found.
    """
    num = model.num_classes
    labels = jnp.tile(jnp.arange(num), 2)
    free = jnp.repeat(jnp.array([True, False]), num)
    # A mask never exceeds the number of pixels (an infinite budget has no gradient). No success
    # meets a threshold above 1: the search within the budget keeps the most successful.
    pixels = float(root_x.shape[1] * root_x.shape[2])
    searches = _Search(
        label=labels,
        budget=jnp.where(free, pixels, budget),
        cost=jnp.where(free, cost, 0.0),
        threshold=jnp.where(free, threshold, 2.0),
    )
    search = functools.partial(_search, model, deployed, root_x, root_y, steps, lr, pace)
    found = jax.vmap(search)(jax.random.split(key, 2 * num), searches)
    smallest = jax.tree.map(lambda a: a[:num], found)
    budgeted = found.success[num:]
    suspect, asr = estimate_asr(budgeted)
    return Inverted(
        mask=smallest.mask,
        pattern=smallest.pattern,
        size=smallest.size,
        success=smallest.success,
        anomaly=anomaly_index(smallest.size),
        budgeted=budgeted,
        suspect=suspect,
        asr=asr,
    )


def anomaly_index(sizes: jax.Array) -> jax.Array:
    """``(median - size) / (1.4826 MAD)`` of sizes f32[C], MAD the median of ``|size - median|``."""
    below = jnp.median(sizes) - sizes
    spread = _MAD_TO_DEVIATION * jnp.median(jnp.abs(below))
    return below / jnp.maximum(spread, 1e-6)


def estimate_asr(budgeted: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Suspected label and estimated attack success rate from success within a budget, f32[C].

    ``(s - b) / (1 - b)``, s the largest success and b the second largest: what a mask of that size
    can do without a backdoor is taken from the other labels.
    """
    first, second = jax.lax.top_k(budgeted, 2)[0]
    return jnp.argmax(budgeted), (first - second) / jnp.maximum(1 - second, 1e-6)


def _search(model, deployed, x, y, steps, lr, pace, key, search: _Search) -> _Found:
    """The best mask of one search."""
    height, width, channels = x.shape[1:]
    others = y != search.label
    count = jnp.maximum(others.sum(), 1)
    target = jnp.full_like(y, search.label)
    optimizer = optax.adam(lr, b1=0.5, b2=0.9)

    def objective(raw, weight):
        mask, pattern = jax.nn.sigmoid(raw[0]), jax.nn.sigmoid(raw[1])
        mask = mask * jnp.minimum(1.0, search.budget / mask.sum())
        logits = model.apply(deployed.params, stamp(x, mask, pattern), deployed.clip)
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, target)
        # the largest of NaNs would be label 0
        hit = (jnp.argmax(logits, axis=-1) == target) & jnp.isfinite(logits).all(axis=-1)
        found = _Found(mask, pattern, mask.sum(), (hit & others).sum() / count)
        return (others * entropy).sum() / count + weight * found.size, found

    def step(carry, _):
        raw, moments, weight, best = carry
        gradient, found = jax.grad(objective, has_aux=True)(raw, weight)
        met = found.success >= search.threshold
        smaller = (best.success < search.threshold) | (found.size < best.size)
        better = jnp.where(met, smaller, found.success > best.success)
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), found, best)
        weight = jnp.where(met, weight * pace, weight / pace)
        move, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(raw, move), moments, weight, best), None

    key_mask, key_pattern = jax.random.split(key)
    raw = (
        _START + 0.1 * jax.random.normal(key_mask, (height, width, 1)),
        0.1 * jax.random.normal(key_pattern, (height, width, channels)),
    )
    nothing = _Found(jnp.zeros_like(raw[0]), jnp.zeros_like(raw[1]), jnp.zeros(()), -jnp.ones(()))
    carry = raw, optimizer.init(raw), search.cost, nothing
    (_, _, _, best), _ = jax.lax.scan(step, carry, None, length=steps)
    return best.replace(success=jnp.maximum(best.success, 0.0))
