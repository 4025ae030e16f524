"""What is in a model beside its parameters: running statistics of layers, counters of batches.

They are in no distance, because they would swamp it, and are averaged by the weights of the clients
that were kept, as Flower averages everything.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np

from metasg_jax.fl.model_form import is_floating
from metasg_jax.integrations.flower.records import Arrays

BUFFERS = ("*running_mean", "*running_var", "*num_batches_tracked", "batch_stats/*")
"""Names of PyTorch's and Flax's normalising layers."""

_FAR = 10.0
"""Times the clients' median distance from their median: as far as an entry may be from it."""


def is_buffer(name: str, array: np.ndarray, patterns: Sequence[str]) -> bool:
    """Whether an array is left out of the distances: by its name, or because it holds no floats."""
    return not is_floating(array.dtype) or any(fnmatchcase(name, each) for each in patterns)


def average(sent: Arrays, clients: Sequence[Arrays], weights: Sequence[float]) -> Arrays:
    """The clients' weighted means, in the dtypes of the model that was sent; whole numbers rounded.

    An entry far away from the others counts as one that is ten times their usual distance away:
    whoever sends an honest update may yet send a variance of 1e30.

    Args:
        sent: buffers by name, of the model that was sent.
        clients: n times the same names and shapes, finite.
        weights: n positive numbers.

    Returns:
        Buffers by name; those that were sent where there are no clients.
    """
    if not clients:
        return sent
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    return type(sent)(
        (name, _mean([each[name] for each in clients], shares, like.dtype))
        for name, like in sent.items()
    )


def _mean(arrays: Sequence[np.ndarray], shares: np.ndarray, dtype) -> np.ndarray:
    rows = np.stack([np.asarray(a, np.float64) for a in arrays])
    middle = np.median(rows, axis=0)
    reach = _FAR * np.median(np.abs(rows - middle[None]), axis=0)
    mean = np.tensordot(shares, np.clip(rows, middle - reach, middle + reach), axes=1)
    if dtype.kind == "b":
        return mean > 0.5
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        # the largest of 64 bits is no float: the next one is beyond it
        top = float(info.max) if dtype.itemsize < 8 else np.nextafter(float(info.max), 0)
        mean = np.clip(np.rint(mean), float(info.min), top)
    return mean.astype(dtype)


def are_finite(arrays: Arrays) -> bool:
    """Whether all entries are numbers, and not so large that a mean of them is none."""
    return all(
        bool(np.isfinite(np.asarray(a, np.float64)).all()) and _moderate(a) for a in arrays.values()
    )


def _moderate(array: np.ndarray) -> bool:
    return not array.size or float(np.max(np.abs(np.asarray(array, np.float64)))) < 1e30
