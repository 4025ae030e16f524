"""Who has which images: a folder a seed, with ``server.npz`` and ``client-<i>.npz``."""

from pathlib import Path

import numpy as np

from metasg_jax.data import PARTITIONS, load, split

NUM_ROOT, NUM_TEST = 100, 2000


def prepare(folder: Path, dataset: str, seed: int, clients: int, each: int, alpha: float) -> Path:
    """Deals a data set's images out, none of them twice.

    Args:
        folder: made where it is missing.
        dataset: a registered name.
        seed: of the deal.
        clients: how many.
        each: images of a client, on average.
        alpha: of the Dirichlet distribution by which classes are shared out.
    """
    rng, images = np.random.default_rng(seed), load(dataset, say=None)
    parts = split(rng, images, NUM_ROOT, 0, min(NUM_TEST, len(images.test_y)))
    theirs = parts.clients[: clients * each]
    dealt = PARTITIONS["dirichlet"](rng, images.train_y[theirs], clients, alpha)
    folder.mkdir(parents=True, exist_ok=True)
    for i, size in enumerate(dealt.sizes):
        mine = theirs[dealt.index[i, :size]]
        np.savez(folder / f"client-{i}.npz", x=images.train_x[mine], y=images.train_y[mine])
    np.savez(
        folder / "server.npz",
        root_x=images.train_x[parts.root],
        root_y=images.train_y[parts.root],
        test_x=images.test_x[parts.test],
        test_y=images.test_y[parts.test],
        classes=images.num_classes,
    )
    return folder
