"""The server's side of a defender: its own images, and what it has beside a model's updates."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metasg_jax.errors import ConfigError
from metasg_jax.features import ServerData, layout_of
from metasg_jax.features.base import MOST_IMAGES
from metasg_jax.fl.model_form import ModelForm
from metasg_jax.post_defenses.fine_tune import descend
from metasg_jax.types import Params


def root_images(
    apply: Callable[[Params, Any], Any] | None, root: tuple[Any, Any] | None
) -> tuple[jax.Array, jax.Array] | None:
    """Images [R, ...] and labels i32[R], at least one of each, as arrays; None without ``root``.

    Raises:
        ConfigError: where one of ``apply`` and ``root`` is given alone, for labels that don't fit
            the images or are no whole numbers from 0 on, and for images that are not finite.
    """
    if (apply is None) != (root is None):
        given = "root" if apply is None else "apply"
        raise ConfigError(f"{given} is of use with the other only: give apply and root, or none")
    return None if root is None else _checked(*root)


def _checked(x, y) -> tuple[jax.Array, jax.Array]:
    x, y = np.asarray(x), np.asarray(y)
    if y.ndim != 1 or len(x) != len(y) or not len(y):
        raise ConfigError(f"root: {x.shape} images with labels {y.shape}: one label an image, some")
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise ConfigError("root: labels are whole numbers from 0 on")
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        raise ConfigError("root: images hold values that are not finite")
    return jnp.asarray(x), jnp.asarray(y, jnp.int32)


def choose_few(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """At most :data:`MOST_IMAGES`, the classes taking turns."""
    labels = np.asarray(y)
    turn = np.empty(len(labels), np.int64)
    for c in np.unique(labels):
        mine = np.flatnonzero(labels == c)
        turn[mine] = np.arange(len(mine))
    order = np.lexsort((labels, turn))[:MOST_IMAGES]
    return x[order], y[order]


def look_over(
    form: ModelForm,
    apply: Callable[[Params, Any], Any] | None,
    root: tuple[jax.Array, jax.Array] | None,
    last: str | None,
) -> ServerData:
    """What a server with these images has beside the updates of models of this form.

    Args:
        form: of the model that the server sends out.
        apply: ``(params, x) -> logits [R, C]``, traceable by JAX; None if it can't run the model.
        root: images and labels of the server's own, checked; None if it has none.
        last: path of the last matrix; None to search for it.

    Raises:
        ConfigError: where ``apply`` fails on the model or gives other shapes than logits, a label
            is beyond its classes, or the matrix named ``last`` is not there.
    """
    leaves = form.float_leaves()
    if last is not None:
        if last not in form.float_names():
            raise ConfigError(f"last = {last!r}: one of {', '.join(form.float_names())}")
        last = str(form.float_names().index(last))  # leaves are a list: a path in it is a number
    if apply is None or root is None:
        return ServerData(None, None, layout_of(leaves, last=last))
    x, y = root

    def by_leaves(leaves, x):
        return jnp.asarray(apply(form.tree_of(leaves), x), jnp.float32)

    try:
        logits = jax.eval_shape(by_leaves, leaves, x)
    except Exception as error:
        raise ConfigError(
            f"apply: it fails on this model and these root images, traced by JAX: {error}; "
            "a model that JAX can't run goes without apply and root"
        ) from error
    if logits.ndim != 2 or logits.shape[0] != len(y):
        raise ConfigError(f"apply: logits of shape {logits.shape}, not ({len(y)}, classes)")
    if int(y.max()) >= logits.shape[1]:
        raise ConfigError(f"root: a label {int(y.max())}, but {logits.shape[1]} classes")
    layout = layout_of(leaves, by_leaves, x[:4], last=last)
    cuts = np.cumsum([a.size for a in leaves])[:-1]
    shapes = [a.shape for a in leaves]

    def by_row(w, x):
        parts = jnp.split(w, cuts)
        return by_leaves([p.reshape(s) for p, s in zip(parts, shapes, strict=True)], x)

    return ServerData(x, y, layout, by_row)


@functools.partial(jax.jit, static_argnames=("apply", "steps"))
def tune(apply, w, x, y, lr, steps):
    """The raveled model f32[d] after gradient steps on all of the server's images.

    Args:
        apply: static, ``(w f32[d], x) -> logits f32[R, C]``.
        w: f32[d].
        x: images [R, ...].
        y: i32[R].
        lr: of these steps.
        steps: static, how many.
    """

    def loss(w):
        return optax.softmax_cross_entropy_with_integer_labels(apply(w, x), y).mean()

    return descend(loss, w, lr, steps)
