"""Reverse engineering of backdoor triggers from a model and a few clean images.

Wang et al., "Neural Cleanse", IEEE S&P 2019: for every label, the smallest mask and pattern that
send images of other classes to it; a label that takes a far smaller mask than the others is
suspected. A second search, of our own, asks how many images a patch of a trigger's size can send:
that is what the success of an unknown trigger is estimated by.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from metasg_jax.errors import ConfigError
from metasg_jax.fl.data import stamp
from metasg_jax.limits import ABOVE_ONE, POSITIVE, SHARE, STEPS
from metasg_jax.struct import Struct
from metasg_jax.types import Deployed, Key, Model

# a normal sample's standard deviation over its median absolute deviation
_MAD_TO_DEVIATION = 1.4826
# logit of a mask at the start: a share of 0.12 of each pixel
_START = -2.0
# of the softmax over places: a step of Adam multiplies a weight by about e^(lr * this)
_SHARPNESS = 5.0


class Inverted(Struct):
    """Triggers found, one a label.

    Attributes:
        mask: f32[C, h, w, 1] in [0, 1], the smallest that met the threshold; where none did, the
            most successful.
        pattern: f32[C, h, w, c] in [0, 1]; a stamped image is ``(1 - mask) x + mask pattern``.
        size: f32[C], L1 norm of the mask.
        success: f32[C], share of the root images of other classes that it sends to the label.
        anomaly: f32[C], how far ``size`` lies below the labels' median, in deviations estimated by
            their median absolute deviation; Neural Cleanse suspects above 2. A label without a
            mask that met the threshold counts as one that takes the whole image.
        patched: f32[C], largest success of a patch of the given side.
        suspect: i32[], the label of the largest ``patched``.
        asr: f32[] in [0, 1], estimated attack success rate towards ``suspect``.
    """

    mask: jax.Array
    pattern: jax.Array
    size: jax.Array
    success: jax.Array
    anomaly: jax.Array
    patched: jax.Array
    suspect: jax.Array
    asr: jax.Array


class _Found(Struct):
    """The best mask f32[h, w, 1] on the way, its pattern, L1 norm and success."""

    mask: jax.Array
    pattern: jax.Array
    size: jax.Array
    success: jax.Array


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
    side: int = 3,
) -> Inverted:
    """Searches a trigger for each label, all labels at once.

    The first search minimises ``mean CE(f((1 - m) x + m p), label) + lambda |m|_1`` over masks m
    and patterns p by Adam, x the root images of other classes. lambda is multiplied by ``pace``
    after a step whose success reached ``threshold``, else divided.

    The second has no lambda. Its mask is a mixture of all squares of the given side, with weights
    that soon choose one: the place of a patch is searched along with its pattern. Masks of a given
    L1 norm that may scatter over the image tell less: without any backdoor they send half of the
    images somewhere.

    Args:
        key: consumed; draws the starting points.
        model: static.
        deployed: parameters and bounds; both are in force.
        root_x: f32[R, h, w, c] clean images in [0, 1].
        root_y: i32[R].
        steps: of Adam, static, at least 1.
        lr: positive, of Adam, on logits of mask and pattern.
        cost: positive, lambda at the start.
        pace: above 1.
        threshold: in [0, 1], success that a mask needs.
        side: pixels of a patch's side, static: that of the triggers one expects.

    Returns:
        See :class:`Inverted`. Nothing is raised for non-finite parameters: nothing is found.

    Raises:
        ConfigError: where a patch does not fit into an image, images are whole numbers (bytes, not
            yet in [0, 1]), or a number is out of range.
    """
    height, width, _ = root_x.shape[1:]
    if not 1 <= side <= min(height, width):
        raise ConfigError(f"side = {side}: between 1 and {min(height, width)}")
    if not jnp.issubdtype(root_x.dtype, jnp.floating):
        raise ConfigError(f"root_x: floats in [0, 1], not {root_x.dtype}; see fl.to_unit")
    numbers = dict(lr=lr, cost=cost, pace=pace, threshold=threshold, steps=steps)
    limits = dict(lr=POSITIVE, cost=POSITIVE, pace=ABOVE_ONE, threshold=SHARE, steps=STEPS)
    for name, (holds, allowed) in limits.items():
        if isinstance(numbers[name], (int, float)) and not holds(numbers[name]):
            raise ConfigError(f"{name} = {numbers[name]:g}: {allowed}")
    return _invert(
        key, model, deployed, root_x, root_y,
        lr=lr, cost=cost, pace=pace, threshold=threshold, steps=steps, side=side,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("model", "steps", "side"))
def _invert(
    key, model, deployed, root_x, root_y, *, steps, lr, cost, pace, threshold, side
) -> Inverted:
    num, (height, width, _) = model.num_classes, root_x.shape[1:]
    keys = jax.random.split(key, (2, num))

    def search(keys, mask_of, shape, cost, threshold) -> _Found:
        one = functools.partial(
            _search, model, deployed, root_x, root_y, steps, lr, pace,
            mask_of, shape, cost, threshold,
        )  # fmt: skip
        return jax.vmap(one)(keys, jnp.arange(num))

    def free_mask(raw):
        return jax.nn.sigmoid(_START + raw)[..., None]

    smallest = search(keys[0], free_mask, (height, width), cost, threshold)
    # no success meets a threshold above 1: the most successful patch is kept
    squares = functools.partial(patch_mask, side=side)
    places = height - side + 1, width - side + 1
    patches = search(keys[1], squares, places, 0.0, 2.0)
    suspect, asr = estimate_asr(patches.success)
    # a mask that never met the threshold has no size: at least that of any that would
    sizes = jnp.where(smallest.success >= threshold, smallest.size, float(height * width))
    return Inverted(
        mask=smallest.mask,
        pattern=smallest.pattern,
        size=smallest.size,
        success=smallest.success,
        anomaly=anomaly_index(sizes),
        patched=patches.success,
        suspect=suspect,
        asr=asr,
    )


def anomaly_index(sizes: jax.Array) -> jax.Array:
    """``(median - size) / (1.4826 MAD)`` of sizes f32[C], MAD the median of ``|size - median|``."""
    below = jnp.median(sizes) - sizes
    spread = _MAD_TO_DEVIATION * jnp.median(jnp.abs(below))
    return below / jnp.maximum(spread, 1e-6)


def estimate_asr(patched: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Suspected label and estimated attack success rate from the success of patches, f32[C].

    ``(s - b) / (1 - b)``, s the largest success and b the second largest: success alone says
    nothing, as patches work without a backdoor too; how well, the other labels tell. A second
    backdoor, towards another label, is taken for such.
    """
    first, second = jax.lax.top_k(patched, 2)[0]
    return jnp.argmax(patched), (first - second) / jnp.maximum(1 - second, 1e-6)


def patch_mask(raw: jax.Array, side: int) -> jax.Array:
    """f32[h, w, 1]: squares of ``side`` pixels, mixed by a softmax of f32[h - side + 1, ..]."""
    rows, columns = raw.shape
    weights = jax.nn.softmax(_SHARPNESS * raw.reshape(-1)).reshape(raw.shape)
    mask = jnp.zeros((rows + side - 1, columns + side - 1), jnp.float32)
    for i in range(side):
        for j in range(side):
            mask = mask.at[i : i + rows, j : j + columns].add(weights)
    return mask[..., None]


def towards(
    model: Model, deployed: Deployed, x, y, label, mask, pattern
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What a trigger does to images f32[R, h, w, c] of other classes than ``label``.

    Returns:
        (mean cross-entropy of the label, share of images sent to it, its mean probability), f32[].
    """
    others = y != label
    count = jnp.maximum(others.sum(), 1)
    target = jnp.full_like(y, label)
    logits = model.apply(deployed.params, stamp(x, mask, pattern), deployed.clip)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    # the largest of NaNs would be label 0
    hit = (jnp.argmax(logits, axis=-1) == target) & jnp.isfinite(logits).all(axis=-1)
    probability = jnp.exp(-entropy)
    return (
        (others * entropy).sum() / count,
        (hit & others).sum() / count,
        (others * probability).sum() / count,
    )


def _search(
    model, deployed, x, y, steps, lr, pace, mask_of, shape, cost, threshold, key, label
) -> _Found:
    """The best mask on the way of Adam over f32[shape], of which ``mask_of`` makes masks."""
    optimizer = optax.adam(lr, b1=0.5, b2=0.9)

    def objective(raw, weight):
        mask, pattern = mask_of(raw[0]), jax.nn.sigmoid(raw[1])
        entropy, success, _ = towards(model, deployed, x, y, label, mask, pattern)
        found = _Found(mask, pattern, mask.sum(), success)
        return entropy + weight * found.size, found

    def step(carry, _):
        raw, moments, weight, best = carry
        gradient, found = jax.grad(objective, has_aux=True)(raw, weight)
        met = found.success >= threshold
        smaller = (best.success < threshold) | (found.size < best.size)
        better = jnp.where(met, smaller, found.success > best.success)
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), found, best)
        weight = jnp.where(met, weight * pace, weight / pace)
        move, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(raw, move), moments, weight, best), None

    key_mask, key_pattern = jax.random.split(key)
    raw = (
        0.1 * jax.random.normal(key_mask, shape, jnp.float32),
        0.1 * jax.random.normal(key_pattern, x.shape[1:], jnp.float32),
    )
    # a success below any, so that the first step's mask is taken
    nothing = _Found(
        jnp.zeros((*x.shape[1:3], 1), jnp.float32),
        jnp.zeros(x.shape[1:], jnp.float32),
        jnp.zeros((), jnp.float32),
        -jnp.ones((), jnp.float32),
    )
    carry = raw, optimizer.init(raw), jnp.asarray(cost, jnp.float32), nothing
    (_, _, _, best), _ = jax.lax.scan(step, carry, None, length=steps)
    return best


class OnlineSearch(Struct):
    """A patch for each label, improved round by round on a model that changes.

    Attributes:
        raw: (f32[C, h - side + 1, w - side + 1], f32[C, h, w, c]), logits of places and patterns.
        moments: of Adam.
        count: i32[], steps so far.
    """

    raw: tuple[jax.Array, jax.Array]
    moments: optax.OptState
    count: jax.Array


def begin_search(model: Model, side: int = 3) -> OnlineSearch:
    """Every place equally likely, patterns grey."""
    height, width, channels = model.input_shape
    num = model.num_classes
    raw = (
        jnp.zeros((num, height - side + 1, width - side + 1), jnp.float32),
        jnp.zeros((num, height, width, channels), jnp.float32),
    )
    return OnlineSearch(raw, _online_optimizer().init(raw), jnp.zeros((), jnp.int32))


def continue_search(
    search: OnlineSearch,
    model: Model,
    deployed: Deployed,
    root_x: jax.Array,
    root_y: jax.Array,
    *,
    side: int = 3,
    images: int = 64,
    decay: float = 0.98,
) -> tuple[OnlineSearch, jax.Array]:
    """One step of Adam for each label, on the next ``images`` of the root set in turn.

    A patch searched from nothing takes a hundred steps; on a model that moves slowly, a step a
    round follows it. Logits fade by ``decay``, so that a place found earlier can be left.

    Returns:
        (search, mean probability f32[C] of each label under its patch before the step).
    """
    count = root_x.shape[0]
    turn = (search.count * images + jnp.arange(min(images, count))) % count
    x, y = root_x[turn], root_y[turn]

    def objective(raw, label):
        mask, pattern = patch_mask(raw[0], side), jax.nn.sigmoid(raw[1])
        entropy, _, probability = towards(model, deployed, x, y, label, mask, pattern)
        return entropy, probability

    labels = jnp.arange(model.num_classes)
    gradient, success = jax.vmap(jax.grad(objective, has_aux=True))(search.raw, labels)
    # a model that is not finite teaches nothing
    gradient = jax.tree.map(jnp.nan_to_num, gradient)
    move, moments = _online_optimizer().update(gradient, search.moments)
    raw = jax.tree.map(lambda r, m: decay * r + m, search.raw, move)
    return OnlineSearch(raw, moments, search.count + 1), jnp.nan_to_num(success)


def patch_of(search: OnlineSearch, label, side: int = 3) -> tuple[jax.Array, jax.Array]:
    """The patch towards a label i32[] as it stands: (mask, pattern), each f32[h, w, c]."""
    places, colours = search.raw
    pattern = jax.nn.sigmoid(colours[label])
    return jnp.broadcast_to(patch_mask(places[label], side), pattern.shape), pattern


def _online_optimizer() -> optax.GradientTransformation:
    return optax.adam(0.3, b1=0.5, b2=0.9)
