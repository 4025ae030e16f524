"""The data sets that are known by name, and what each must contain."""

import dataclasses

import numpy as np

from metasg_jax.data.content import digest
from metasg_jax.data.dataset import Dataset, require_arrays
from metasg_jax.errors import DataError
from metasg_jax.registry import Registry


@dataclasses.dataclass(frozen=True)
class Description:
    """What a data set is, for tables and for checking what was read.

    Attributes:
        text: One line for people.
        image_shape: (h, w, c).
        num_classes: Number of labels.
        num_train: Number of training images.
        num_test: Number of test images.
        sha256: ``content.digest`` of the published contents in canonical order; empty when the
            set comes with a library, whose own tests vouch for it.
    """

    text: str
    image_shape: tuple[int, int, int]
    num_classes: int
    num_train: int
    num_test: int
    sha256: str = ""


DATASETS: Registry[Description] = Registry(
    "data set",
    {
        "digits": Description(
            "scikit-learn's handwritten digits, 8x8 grey: embedded, no download",
            (8, 8, 1),
            10,
            1437,
            360,
        ),
        "mnist": Description(
            "MNIST: handwritten digits, 28x28 grey",
            (28, 28, 1),
            10,
            60_000,
            10_000,
            "bb4742ad1e1a2a123de104f0321c2507102f0caf2715cb0a24502bde8e161c71",
        ),
        "fashion_mnist": Description(
            "Fashion-MNIST: articles of clothing, 28x28 grey",
            (28, 28, 1),
            10,
            60_000,
            10_000,
            "8eb7f6404444e648b29d883df1a13a1f05909d085e95fc0c4e3c2907b8ec4368",
        ),
        "cifar10": Description(
            "CIFAR-10: photographs of animals and vehicles, 32x32 colour",
            (32, 32, 3),
            10,
            50_000,
            10_000,
            "bbd904a86ed17c3fdb1fe0cc1f4ef92bb27c66f372ee9a733601560f9458ca28",
        ),
    },
)


def check(dataset: Dataset, origin: str) -> None:
    """Compares a data set in canonical order with its description.

    Args:
        dataset: The data set; its name must be registered in ``DATASETS``.
        origin: Where it came from, for the message.

    Raises:
        DataError: A count, an image shape, a dtype, a label or the contents differ.
    """
    expected = DATASETS[dataset.name]
    for split, images, labels, count in (
        ("train", dataset.train_x, dataset.train_y, expected.num_train),
        ("test", dataset.test_x, dataset.test_y, expected.num_test),
    ):
        what = f"{dataset.name} from {origin}: the {split} split"
        shape = (count, *expected.image_shape)
        if images.shape != shape or images.dtype != np.uint8:
            raise DataError(
                f"{what} must hold uint8 images {list(shape)}, "
                f"got {images.dtype} {list(images.shape)}"
            )
        if labels.shape != (count,) or labels.dtype != np.int32:
            raise DataError(
                f"{what} must hold int32 labels [{count}], got {labels.dtype} {list(labels.shape)}"
            )
    if dataset.num_classes != expected.num_classes:
        raise DataError(
            f"{dataset.name} from {origin} must have {expected.num_classes} classes, "
            f"got {dataset.num_classes!r}"
        )
    require_arrays(dataset, origin)
    if expected.sha256 and digest(dataset) != expected.sha256:
        raise DataError(
            f"{dataset.name} from {origin} has other contents than the published set: "
            "fetch it again, or use another source"
        )
