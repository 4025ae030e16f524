"""Who may see which images: root, clients, validation and test share none."""

import dataclasses

import numpy as np

from metasg_jax.data.dataset import Dataset
from metasg_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Splits:
    """Positions of images; the first three are disjoint and point into the train set.

    Attributes:
        root: int32 [R], the server's clean images, in random order.
        clients: int32 [M - R - V], to be partitioned among the clients, in random order.
        validation: int32 [V], for everything that is selected, in random order.
        test: int32 [T], positions in the test set.
    """

    root: np.ndarray
    clients: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(
    rng: np.random.Generator,
    dataset: Dataset,
    num_root: int,
    num_validation: int,
    num_test: int | None = None,
    root_class_share: float | None = None,
) -> Splits:
    """Draws the splits of one experiment.

    Args:
        rng: Randomness, advanced.
        dataset: The data set.
        num_root: R; the same number of images of every class, as far as the counts allow.
        num_validation: V.
        num_test: How many test images; None is all of them, in order.
        root_class_share: Share of the root images that are of one class, drawn at random, the
            others in equal numbers; 0 leaves that class out. None is equal numbers of all.

    Returns:
        The splits; the clients get every train image that is neither root nor validation.

    Raises:
        ConfigError: A count is negative, or more than there are; one train image at least must
            be left for the clients.
    """
    num_train, all_test = len(dataset.train_y), len(dataset.test_y)
    if num_root < 0 or num_validation < 0:
        raise ConfigError(
            f"num_root and num_validation must be at least 0, got {num_root} and {num_validation}"
        )
    if num_root + num_validation >= num_train:
        raise ConfigError(
            f"num_root + num_validation must be below {num_train}, the train images of "
            f"{dataset.name}, got {num_root} + {num_validation}"
        )
    if num_test is not None and not 1 <= num_test <= all_test:
        raise ConfigError(
            f"num_test must be in 1..{all_test}, the test images of {dataset.name}, got {num_test}"
        )
    order = rng.permutation(num_train)
    in_root = np.zeros(num_train, bool)
    if root_class_share is None:
        in_root[_balanced(rng, order, dataset.train_y, num_root)] = True
    else:
        in_root[_biased(rng, order, dataset.train_y, num_root, root_class_share)] = True
    root, rest = order[in_root[order]], order[~in_root[order]]
    test = np.arange(all_test)
    if num_test is not None:
        test = rng.choice(all_test, size=num_test, replace=False)
    return Splits(
        root=root.astype(np.int32),
        clients=rest[num_validation:].astype(np.int32),
        validation=rest[:num_validation].astype(np.int32),
        test=test.astype(np.int32),
    )


def _biased(
    rng: np.random.Generator, order: np.ndarray, labels: np.ndarray, count: int, share: float
) -> np.ndarray:
    """``count`` images, a ``share`` of them of one class."""
    focus = labels[order] == rng.choice(np.unique(labels))
    of_it = order[focus][: round(share * count)]
    rest = order[~focus]
    return np.concatenate([of_it, _balanced(rng, rest, labels, count - len(of_it))])


def _balanced(
    rng: np.random.Generator, order: np.ndarray, labels: np.ndarray, count: int
) -> np.ndarray:
    """The first ``count`` images when the classes take turns; ``order`` decides within a class."""
    turn = np.full(len(labels), len(labels))  # What is not in ``order`` comes last.
    classes = rng.permutation(np.unique(labels))  # Who is first when ``count`` does not divide.
    rank = np.empty(int(labels.max()) + 1, np.int64)
    rank[classes] = np.arange(len(classes))
    for c in classes:
        mine = order[labels[order] == c]
        turn[mine] = np.arange(len(mine))
    return np.lexsort((rank[labels], turn))[:count]
