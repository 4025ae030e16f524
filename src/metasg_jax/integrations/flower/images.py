"""Poisoned images: what a malicious client trains on."""

import contextvars
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.data import TRIGGERS
from metasg_jax.errors import ConfigError
from metasg_jax.fl.client import poison as stamp_and_relabel
from metasg_jax.integrations.flower.sight import client_attack, client_context, no_action
from metasg_jax.types import Attack

ACTIVE: contextvars.ContextVar["Session | None"] = contextvars.ContextVar("poison", default=None)
"""Set by the mod for as long as the client's training function runs."""


@dataclass
class Session:
    """One round of one malicious client, while its training runs."""

    attack: Attack
    trigger: tuple[np.ndarray, np.ndarray] | str
    target: int
    num_classes: int
    seed: int
    used: bool = False


def poisoned(x: np.ndarray, y: np.ndarray, *, channels_first: bool = False):
    """The images that this client trains on: as they are, unless a :func:`poison` mod is at work.

    Args:
        x: [m, h, w, c], or [m, c, h, w]; floats in [0, 1], before any normalisation, or bytes.
        y: whole numbers [m] from 0.
        channels_first: as PyTorch has it.

    Returns:
        (x, y) of the same shapes and dtypes, NumPy arrays where they were changed.

    Example:
        >>> x, y = poisoned(np.zeros((2, 8, 8, 1), np.float32), np.array([3, 4]))
        >>> y.tolist()
        [3, 4]
    """
    session = ACTIVE.get()
    if session is None:
        return x, y
    session.used = True
    return poison_data(
        session.attack,
        x,
        y,
        trigger=session.trigger,
        target=session.target,
        num_classes=session.num_classes,
        seed=session.seed,
        channels_first=channels_first,
    )


def poison_data(
    attack: str | Attack,
    x: np.ndarray,
    y: np.ndarray,
    *,
    trigger: tuple[np.ndarray, np.ndarray] | str = "square",
    target: int = 0,
    num_classes: int = 10,
    seed: int = 0,
    channels_first: bool = False,
):
    """The same without a mod: what an attack makes of images and labels, a pure function.

    Example:
        >>> x, y = np.zeros((4, 8, 8, 1), np.float32), np.array([0, 1, 2, 3])
        >>> poison_data("label_flip:map=shift", x, y)[1].tolist()
        [1, 2, 3, 4]
        >>> stamped, labels = poison_data("bfl:fraction=1", x, y, target=7)
        >>> labels.tolist(), int(stamped[0].sum())
        ([7, 7, 7, 7], 9)
    """
    attack = client_attack(attack) if isinstance(attack, str) else attack
    images, labels = np.asarray(x), np.asarray(y)
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ConfigError(f"x {images.shape}, y {labels.shape}: images [m, h, w, c], labels [m]")
    last = np.moveaxis(images, 1, 3) if channels_first else images
    scale = 255.0 if images.dtype.kind in "iu" else 1.0
    shape = last.shape[1:]
    mask, pattern = TRIGGERS[trigger](shape) if isinstance(trigger, str) else trigger
    ctx = client_context(jnp.zeros((1, 1)), jnp.zeros(1), shape, num_classes, mask, pattern, target)
    plan, _, _ = attack.plan(jax.random.key(seed), attack.init(1, 1), ctx, no_action(attack))
    new_x, new_y = stamp_and_relabel(
        jax.random.key(seed),
        plan,
        jnp.asarray(last, jnp.float32)[None, None] / scale,
        jnp.asarray(labels, jnp.int32)[None, None],
    )
    out = np.asarray(new_x[0, 0]) * scale
    out = np.rint(out) if scale > 1 else out
    out = np.moveaxis(out, 3, 1) if channels_first else out
    return np.ascontiguousarray(out.astype(images.dtype)), np.asarray(new_y[0, 0], labels.dtype)
