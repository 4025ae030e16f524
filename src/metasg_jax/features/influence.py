"""What an update does to the server's own images."""

import jax
import jax.numpy as jnp

from metasg_jax.features.base import MOST_IMAGES, TINY, Rows, ServerData

NAMES = (
    "gain_mean", "gain_lowest", "gain_second_lowest", "gain_third_lowest", "gain_second_highest",
    "gain_highest", "pull_lowest", "pull_third_highest", "pull_second_highest", "pull_highest",
    "push_highest", "push_gap",
)  # fmt: skip


def influence(rows: Rows, server: ServerData):
    """Change of probabilities on root images when one row, at most of median norm, is applied.

    ``gain``: of the true class, mean and by class (sorted). ``pull``: of a class on images of the
    others (sorted). ``push``: the largest mean rise of a class's log-probability over all images,
    and its lead over the second. All times 10. Costs n forward passes over at most
    :data:`~metasg_jax.features.base.MOST_IMAGES` root images.
    """
    assert server.apply is not None and server.root_x is not None and server.root_y is not None
    x, y = server.root_x[:MOST_IMAGES], server.root_y[:MOST_IMAGES]
    before = jax.nn.log_softmax(server.apply(rows.w_global, x))
    num_classes = before.shape[-1]
    mine = jax.nn.one_hot(y, num_classes)
    counts = jnp.maximum(mine.sum(axis=0), 1.0)
    rest = jnp.maximum((1 - mine).sum(axis=0), 1.0)
    held = mine.sum(axis=0) > 0  # classes without a root image say nothing

    scales = jnp.minimum(1.0, rows.middle / jnp.maximum(rows.norms, TINY))
    moved = rows.w_global[None] - rows.updates * scales[:, None]
    after = jax.nn.log_softmax(jax.vmap(server.apply, in_axes=(0, None))(moved, x))
    change = jnp.exp(after) - jnp.exp(before)[None]
    # all rows and all three kinds at once: one sum over images, one sort of classes
    kinds = jnp.stack([mine[None] * change, (1 - mine)[None] * change, after - before[None]])
    own, others, rise = kinds.sum(axis=2)
    gain = own.sum(axis=1, keepdims=True) / mine.sum()
    by_class = jnp.where(held[None], own / counts[None], 0.0)
    by_class, pull, push = jnp.sort(
        jnp.stack([by_class, others / rest[None], rise / x.shape[0]]), axis=2
    )
    last = num_classes - 1
    low, second = [min(i, last) for i in range(3)], max(last - 1, 0)
    push = push[:, [last, second]] / 10
    found = [
        gain, by_class[:, [*low, second, last]], pull[:, [0, max(last - 2, 0), second, last]],
        push[:, :1], push[:, :1] - push[:, 1:],
    ]  # fmt: skip
    found = jnp.concatenate(found, axis=1)
    found = jnp.where(jnp.isfinite(found), found, 0.0)
    return jnp.clip(10 * found, -10.0, 10.0)
