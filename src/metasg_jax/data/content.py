"""What a data set contains, whatever the source and the order it came in.

TFDS stores examples in the order of its own hash, the mirrors in the published order. A seed must
mean the same clients with either, so every source is brought into one order before it is cached.
"""

import dataclasses
import hashlib

import numpy as np

from metasg_jax.data.dataset import Dataset


def canonical(dataset: Dataset) -> Dataset:
    """Sorts train and test by a hash of (label, image): an order that no source decides.

    The hash also mixes the classes, and examples that are equal are interchangeable.

    Args:
        dataset: Any data set.

    Returns:
        The same examples, contiguous: images uint8 [M, h, w, c], labels int32 [M].
    """
    train_x, train_y = _in_hash_order(dataset.train_x, dataset.train_y)
    test_x, test_y = _in_hash_order(dataset.test_x, dataset.test_y)
    return dataclasses.replace(
        dataset, train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y
    )


def digest(dataset: Dataset) -> str:
    """The sha256 (64 hex digits) of shapes, dtypes and values of the four arrays, in order."""
    total = hashlib.sha256()
    for array in (dataset.train_x, dataset.train_y, dataset.test_x, dataset.test_y):
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        total.update(f"{little.dtype.name}{little.shape}".encode())
        total.update(little.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _in_hash_order(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels = np.asarray(labels, np.int32)
    salts = labels.astype("<i4")
    digests = b"".join(
        hashlib.blake2b(image.tobytes(), digest_size=16, salt=salt.tobytes()).digest()
        for image, salt in zip(images, salts, strict=True)
    )
    high, low = np.frombuffer(digests, ">u8").reshape(-1, 2).T
    order = np.lexsort((low, high))
    return np.ascontiguousarray(images[order]), np.ascontiguousarray(labels[order])
