"""Images that a server makes of the few that it holds: its own world, without clients' data.

A simulation is ``(rng, images, labels, count, factor) -> (images, labels)``, host-side:

    rng: randomness, advanced
    images: u8[R, h, w, c], the root images
    labels: i32[R], at least one image of each label that is asked for
    count: S, how many to make
    factor: by which images are pooled afterwards

and returns u8[S, h / factor, w / factor, c] with i32[S], every label of the root as often as the
others.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from metasg_jax.data.dataset import Dataset, pool, require_arrays
from metasg_jax.data.simulated.augmented import augmented
from metasg_jax.data.simulated.generated import generated
from metasg_jax.data.simulated.repeated import repeated
from metasg_jax.data.splits import Splits
from metasg_jax.errors import ConfigError, DataError
from metasg_jax.registry import Registry

Images = tuple[np.ndarray, np.ndarray]

SIMULATIONS: Registry[Callable[..., Images]] = Registry(
    "simulation", {"repeated": repeated, "augmented": augmented, "generated": generated}
)


@dataclasses.dataclass(frozen=True)
class Simulated:
    """What clients hold in the server's own world; pooled already.

    Attributes:
        images: u8[S, h, w, c].
        labels: i32[S].
    """

    images: np.ndarray
    labels: np.ndarray


def simulate(
    kind: str, dataset: Dataset, root: np.ndarray, count: int, factor: int, seed: int
) -> Simulated:
    """Makes clients' images of the root images alone.

    Args:
        kind: one of :data:`SIMULATIONS`.
        dataset: of which nothing but the root images is read.
        root: i32[R], their positions.
        count: S.
        factor: by which images are pooled.
        seed: of all randomness.

    Raises:
        UnknownNameError: for a kind that is not registered.
        ConfigError: for fewer images than labels.
    """
    x, y = dataset.train_x[root], dataset.train_y[root]
    held = len(np.unique(y))
    if count < 10 * held:
        raise ConfigError(
            f"num_simulated = {count}: at least {10 * held}, ten for each of {held} labels"
        )
    rng = np.random.default_rng([3_000_017, seed])
    return Simulated(*SIMULATIONS[kind](rng, x, y, count, factor))


def with_simulated_clients(
    dataset: Dataset, splits: Splits, simulated: Simulated, factor: int
) -> tuple[Dataset, Splits]:
    """A data set, pooled, whose clients hold simulated images and whose server holds the root's.

    A tenth of the simulated images is kept for validation, and stands for the test set as well,
    which a server does not have.

    Raises:
        DataError: for images of another shape than the root's, no bytes, or labels out of range.
    """
    small = pool(
        dataclasses.replace(
            dataset,
            train_x=dataset.train_x[splits.root],
            train_y=dataset.train_y[splits.root],
            test_x=dataset.test_x[:1],
            test_y=dataset.test_y[:1],
        ),
        factor,
    )
    if simulated.images.shape[1:] != small.train_x.shape[1:]:
        raise DataError(
            f"simulated images are {list(simulated.images.shape[1:])}, pooled ones of "
            f"{dataset.name} {list(small.train_x.shape[1:])}"
        )
    labels = np.asarray(simulated.labels)
    if labels.dtype.kind in "iu":
        labels = labels.astype(np.int32)
    made = dataclasses.replace(small, train_x=simulated.images, train_y=labels)
    require_arrays(made, "a simulation")
    count = len(simulated.labels)
    kept = count // 10
    held_out = slice(0, kept)
    world = dataclasses.replace(
        small,
        train_x=np.concatenate([simulated.images, small.train_x]),
        train_y=np.concatenate([simulated.labels, small.train_y]).astype(np.int32),
        test_x=simulated.images[held_out],
        test_y=simulated.labels[held_out].astype(np.int32),
    )
    places = np.arange(count + len(splits.root), dtype=np.int32)
    return world, Splits(
        root=places[count:],
        clients=places[kept:count],
        validation=places[:kept],
        test=np.arange(kept, dtype=np.int32),
    )


__all__ = ["SIMULATIONS", "Simulated", "simulate", "with_simulated_clients"]
