"""Which client holds which training images: NumPy on the host, before anything is jitted."""

import dataclasses
from collections.abc import Callable

import numpy as np

from metasg_jax.errors import ConfigError
from metasg_jax.registry import Registry


@dataclasses.dataclass(frozen=True)
class Partition:
    """Every client's images, as positions in the labels that were partitioned.

    Attributes:
        index: int32 [N, S]. Row i starts with the ``sizes[i]`` images of client i in random
            order, then repeats them up to S, so that every entry of a row is a legal draw.
        sizes: int32 [N], each at least 1.
    """

    index: np.ndarray
    sizes: np.ndarray


def iid(
    rng: np.random.Generator, labels: np.ndarray, num_clients: int, level: float | None = None
) -> Partition:
    """Deals all images out at random, in equal numbers as far as possible.

    Args:
        rng: Randomness, advanced.
        labels: int [M].
        num_clients: N, in 1..M.
        level: Ignored; the signature is the one of every partition.
    """
    _check_clients(num_clients, labels)
    return _partition(rng, np.array_split(rng.permutation(len(labels)), num_clients))


def q_heterogeneity(
    rng: np.random.Generator, labels: np.ndarray, num_clients: int, level: float
) -> Partition:
    """Splits by class groups, as Fang et al. (2020) do.

    The clients are divided at random into C groups, as equal in size as possible. An image of
    class c goes to group c with probability q, to each other group with probability
    (1 - q) / (C - 1), and to a client of that group uniformly: q = 1 / C is IID, q = 1 gives every
    client one class. With fewer clients than classes a client serves several groups, so that even
    q = 1 leaves it several classes.

    Args:
        rng: Randomness, advanced.
        labels: int [M], in 0..C-1.
        num_clients: N, in 1..M.
        level: q, in [0, 1].
    """
    _check_clients(num_clients, labels)
    if not 0 <= level <= 1:
        raise ConfigError(f"q must be in [0, 1], got {level}")
    num_classes = int(labels.max()) + 1
    order = rng.permutation(num_clients)
    if num_clients >= num_classes:
        groups = np.array_split(order, num_classes)
    else:
        groups = [order[[c % num_clients]] for c in range(num_classes)]
    group = labels.astype(np.int64)
    if num_classes > 1:
        # Adding 1..C-1 modulo C reaches each other group with the same probability.
        shift = rng.integers(1, num_classes, size=len(labels))
        group = np.where(rng.random(len(labels)) < level, group, (group + shift) % num_classes)
    owner = np.empty(len(labels), np.int64)
    for c, members in enumerate(groups):
        mine = group == c
        owner[mine] = rng.choice(members, size=int(mine.sum()))
    return _partition(rng, [np.flatnonzero(owner == i) for i in range(num_clients)])


def dirichlet(
    rng: np.random.Generator, labels: np.ndarray, num_clients: int, level: float
) -> Partition:
    """Splits every class among the clients in proportions drawn from a Dirichlet distribution.

    Args:
        rng: Randomness, advanced.
        labels: int [M].
        num_clients: N, in 1..M.
        level: alpha, positive and finite: small is heterogeneous, large is IID.
    """
    _check_clients(num_clients, labels)
    if not (0 < level < np.inf):
        raise ConfigError(f"alpha must be positive and finite, got {level}")
    parts: list[list[np.ndarray]] = [[] for _ in range(num_clients)]
    for c in np.unique(labels):
        images = rng.permutation(np.flatnonzero(labels == c))
        share = rng.dirichlet(np.full(num_clients, float(level)))
        cuts = np.rint(np.cumsum(share)[:-1] * len(images)).astype(np.int64)
        for part, piece in zip(parts, np.split(images, cuts), strict=True):
            part.append(piece)
    return _partition(rng, [np.concatenate(part) for part in parts])


def shards(
    rng: np.random.Generator, labels: np.ndarray, num_clients: int, level: float
) -> Partition:
    """Sorts by label, cuts into equal shards and deals these out, as McMahan et al. (2017) do.

    Args:
        rng: Randomness, advanced.
        labels: int [M].
        num_clients: N, in 1..M.
        level: Shards per client, an integer of at least 1 with at most M shards in all.
    """
    _check_clients(num_clients, labels)
    if not (level >= 1 and level % 1 == 0 and num_clients * level <= len(labels)):
        raise ConfigError(
            f"shards_per_client must be an integer in 1..{len(labels) // num_clients} "
            f"for {num_clients} clients and {len(labels)} images, got {level}"
        )
    # Permuted first, so that a stable sort orders the images of a class at random.
    mixed = rng.permutation(len(labels))
    by_label = mixed[np.argsort(labels[mixed], kind="stable")]
    pieces = np.array_split(by_label, num_clients * int(level))
    dealt = rng.permutation(len(pieces)).reshape(num_clients, int(level))
    return _partition(rng, [np.concatenate([pieces[j] for j in hand]) for hand in dealt])


PARTITIONS: Registry[Callable[..., Partition]] = Registry(
    "partition",
    {"iid": iid, "q": q_heterogeneity, "dirichlet": dirichlet, "shards": shards},
)


def _check_clients(num_clients: int, labels: np.ndarray) -> None:
    if not 1 <= num_clients <= len(labels):
        raise ConfigError(
            f"num_clients must be in 1..{len(labels)}, the number of images, got {num_clients}"
        )


def _partition(rng: np.random.Generator, parts: list[np.ndarray]) -> Partition:
    """Gives empty clients an image, shuffles every client's list and pads to one width."""
    parts = list(parts)
    for i, part in enumerate(parts):
        if not len(part):
            largest = int(np.argmax([len(p) for p in parts]))
            taken = rng.integers(len(parts[largest]))
            parts[i] = parts[largest][[taken]]
            parts[largest] = np.delete(parts[largest], taken)
    sizes = np.array([len(part) for part in parts], np.int32)
    index = np.stack([np.resize(rng.permutation(part), sizes.max()) for part in parts])
    return Partition(index.astype(np.int32), sizes)
