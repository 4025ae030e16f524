"""A data set in memory: images as bytes, labels as integers."""

import dataclasses

import numpy as np

from metasg_jax.errors import ConfigError, DataError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images and labels of one data set, already split into train and test.

    Attributes:
        name: The registered name, such as "mnist".
        train_x: uint8 [M, h, w, c], raw pixels in 0..255.
        train_y: int32 [M], labels in 0..num_classes-1.
        test_x: uint8 [T, h, w, c].
        test_y: int32 [T].
        num_classes: Number of labels.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    num_classes: int


def require_arrays(dataset: Dataset, origin: str = "") -> None:
    """Refuses what a game would misread: it scales bytes, and reads labels as places.

    Args:
        dataset: the data set.
        origin: where it came from, for the message.

    Raises:
        DataError: for images that are no bytes [M, h, w, c], labels that are not int32 [M] in
            0..num_classes-1, or splits whose images differ in shape.
    """
    classes = dataset.num_classes
    if isinstance(classes, bool) or not isinstance(classes, int | np.integer) or classes < 1:
        raise DataError(f"{dataset.name}: num_classes must be an integer above 0, got {classes!r}")
    place = f"{dataset.name} from {origin}" if origin else dataset.name
    for split, images, labels in (
        ("train", dataset.train_x, dataset.train_y),
        ("test", dataset.test_x, dataset.test_y),
    ):
        what = f"{place}: the {split} split"
        for array in (images, labels):
            if not (hasattr(array, "dtype") and hasattr(array, "shape")):
                raise DataError(f"{what} must hold arrays, got {type(array).__name__}")
        if images.dtype != np.uint8 or len(images.shape) != 4 or 0 in images.shape:
            raise DataError(
                f"{what} must hold uint8 images [M, h, w, c], pixels in 0..255, "
                f"got {images.dtype} {list(images.shape)}"
            )
        if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
            raise DataError(
                f"{what} must hold int32 labels [{len(images)}], one an image, "
                f"got {labels.dtype} {list(labels.shape)}"
            )
        if labels.min() < 0 or labels.max() >= classes:
            raise DataError(
                f"{what} must have labels in 0..{classes - 1}, got {labels.min()}..{labels.max()}"
            )
    shapes = [list(images.shape[1:]) for images in (dataset.train_x, dataset.test_x)]
    if shapes[0] != shapes[1]:
        raise DataError(
            f"{place}: test images are {shapes[1]}, those of the train split {shapes[0]}"
        )


def pool(dataset: Dataset, factor: int) -> Dataset:
    """Shrinks every image by averaging blocks of ``factor`` x ``factor`` pixels.

    Args:
        dataset: The data set; its images are [h, w, c].
        factor: An integer of at least 1 that divides both h and w; 1 changes nothing.

    Returns:
        The data set with uint8 images [h / factor, w / factor, c], averages rounded half up.

    Raises:
        ConfigError: ``factor`` does not divide the height and the width.
    """
    height, width = dataset.train_x.shape[1:3]
    if isinstance(factor, bool) or not isinstance(factor, int | np.integer) or factor < 1:
        raise ConfigError(f"pool must be an integer of at least 1, got {factor!r}")
    if height % factor or width % factor:
        allowed = [f for f in range(1, min(height, width) + 1) if not height % f and not width % f]
        raise ConfigError(
            f"pool must divide the {height}x{width} images of {dataset.name}, "
            f"got {factor}: use one of {', '.join(map(str, allowed))}"
        )
    if factor == 1:
        return dataset
    return dataclasses.replace(
        dataset,
        train_x=pool_images(dataset.train_x, factor),
        test_x=pool_images(dataset.test_x, factor),
    )


def pool_images(images: np.ndarray, factor: int) -> np.ndarray:
    """Averages of blocks: u8[m, h, w, c] -> u8[m, h / factor, w / factor, c]."""
    m, h, w, c = images.shape
    blocks = images.reshape(m, h // factor, factor, w // factor, factor, c)
    area = factor * factor
    total = blocks.sum(axis=(2, 4), dtype=np.uint32)
    return ((total + area // 2) // area).astype(np.uint8)
