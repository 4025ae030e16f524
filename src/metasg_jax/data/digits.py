"""scikit-learn's handwritten digits: embedded, so that everything runs without a download."""

import numpy as np

from metasg_jax.data.content import canonical
from metasg_jax.data.dataset import Dataset

NUM_TRAIN = 1437


def read() -> Dataset:
    """The 1797 digits as a data set.

    Returns:
        Images uint8 [M, 8, 8, 1] in 0..255 (the original 0..16, scaled), 1437 for training and
        360 for testing. The split is fixed and ignores the labels.
    """
    # Imported here: it takes a second, and no other data set needs it.
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    images = np.rint(np.asarray(pixels) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = np.asarray(targets, np.int32)
    everything = canonical(Dataset("digits", images, labels, images[:0], labels[:0], 10))
    # The hash order is a fixed shuffle that does not depend on NumPy's generators, so that the
    # split is the same with every version.
    x, y = everything.train_x, everything.train_y
    return Dataset("digits", x[:NUM_TRAIN], y[:NUM_TRAIN], x[NUM_TRAIN:], y[NUM_TRAIN:], 10)
