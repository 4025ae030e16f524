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

    def of_row(row, norm):
        step = row * jnp.minimum(1.0, rows.middle / jnp.maximum(norm, TINY))
        after = jax.nn.log_softmax(server.apply(rows.w_global - step, x))
        change = jnp.exp(after) - jnp.exp(before)
        gain = (mine * change).sum() / mine.sum()
        by_class = jnp.where(held, (mine * change).sum(axis=0) / counts, 0.0)
        pulled = ((1 - mine) * change).sum(axis=0) / rest
        push = (after - before).mean(axis=0)
        by_class, pulled, push = jnp.sort(jnp.stack([by_class, pulled, push]))
        ends = [by_class[min(i, num_classes - 1)] for i in range(3)]
        ends += [by_class[max(num_classes - 2, 0)], by_class[-1], pulled[0]]
        ends += [pulled[max(num_classes - i, 0)] for i in (3, 2, 1)]
        gap = push[-1] - push[max(num_classes - 2, 0)]
        return jnp.stack([gain, *ends, push[-1] / 10, gap / 10])

    found = jax.vmap(of_row)(rows.updates, rows.norms)
    found = jnp.where(jnp.isfinite(found), found, 0.0)
    return jnp.clip(10 * found, -10.0, 10.0)
