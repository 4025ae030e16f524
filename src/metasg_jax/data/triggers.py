"""Backdoor triggers: which pixels of an image are overwritten, and with what."""

from collections.abc import Callable

import numpy as np

from metasg_jax.errors import ConfigError
from metasg_jax.registry import Registry

CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")


def square(
    shape: tuple[int, int, int],
    size: int = 3,
    *,
    corner: str = "bottom_right",
    position: tuple[int, int] | None = None,
    value: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """A filled square.

    Args:
        shape: (h, w, c) of the images.
        size: Its side in pixels.
        corner: One of ``CORNERS``; the trigger touches both borders there.
        position: (row, column) of its top left pixel; overrides ``corner``.
        value: Brightness of its pixels, in [0, 1], the same in all channels.

    Returns:
        mask: float32 [h, w, c], 1 where the image is overwritten, else 0.
        pattern: float32 [h, w, c] in [0, 1], what it is overwritten with, 0 outside the mask.
        A stamped image is ``(1 - mask) * x + mask * pattern``.

    Raises:
        ConfigError: It does not fit into the image, or an argument is out of its range.
    """
    _check_size(size)
    return _stamp(shape, np.ones((size, size)), corner, position, value)


def plus(
    shape: tuple[int, int, int],
    size: int = 3,
    *,
    corner: str = "bottom_right",
    position: tuple[int, int] | None = None,
    value: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """A plus sign one pixel thick, in a box of ``size`` x ``size``; otherwise as ``square``.

    Raises:
        ConfigError: As ``square``, or ``size`` is even.
    """
    _check_size(size)
    if size % 2 == 0:
        raise ConfigError(f"trigger size of a plus must be odd, got {size}")
    shape_of_plus = np.zeros((size, size))
    shape_of_plus[size // 2, :] = 1
    shape_of_plus[:, size // 2] = 1
    return _stamp(shape, shape_of_plus, corner, position, value)


def distributed(
    shape: tuple[int, int, int],
    size: int = 3,
    *,
    corner: str = "bottom_right",
    position: tuple[int, int] | None = None,
    value: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Four horizontal bars, two above two: the global trigger of the distributed backdoor attack.

    They fit into a width of ``size``: gaps are max(1, size // 5) pixels, both ways, and bars as
    long as is left. Size 10 is that of the paper for 28x28 images (bars of 4, gaps of 2; Xie et
    al., ICLR 2020), size 3 has bars of one pixel. Otherwise as ``square``.

    Raises:
        ConfigError: As ``square``, or ``size`` is below 3.
    """
    _check_size(size)
    if size < 3:
        raise ConfigError(f"trigger size of a distributed trigger must be at least 3, got {size}")
    gap = max(1, size // 5)
    bar = (size - gap) // 2
    stencil = np.zeros((gap + 2, 2 * bar + gap))
    stencil[[0, -1], :bar] = 1
    stencil[[0, -1], bar + gap :] = 1
    return _stamp(shape, stencil, corner, position, value)


TRIGGERS: Registry[Callable[..., tuple[np.ndarray, np.ndarray]]] = Registry(
    "trigger", {"square": square, "plus": plus, "distributed": distributed}
)


def _check_size(size: int) -> None:
    if size < 1:
        raise ConfigError(f"trigger size must be at least 1, got {size}")


def _stamp(
    shape: tuple[int, int, int],
    stencil: np.ndarray,
    corner: str,
    position: tuple[int, int] | None,
    value: float,
) -> tuple[np.ndarray, np.ndarray]:
    height, width, _ = shape
    rows, columns = stencil.shape
    if corner not in CORNERS:
        raise ConfigError(f"trigger corner must be one of {', '.join(CORNERS)}, got {corner!r}")
    if not 0 <= value <= 1:
        raise ConfigError(f"trigger value must be in [0, 1], got {value}")
    if rows > height or columns > width:
        raise ConfigError(
            f"trigger size must be at most {min(height, width)} for {height}x{width} images, "
            f"got {max(rows, columns)}"
        )
    if position is None:
        top = 0 if corner.startswith("top") else height - rows
        left = 0 if corner.endswith("left") else width - columns
    else:
        top, left = position
    if not (0 <= top <= height - rows and 0 <= left <= width - columns):
        raise ConfigError(
            f"trigger position must be in 0..{height - rows}, 0..{width - columns} for a trigger "
            f"of {rows}x{columns} in {height}x{width} images, got {top}, {left}"
        )
    mask = np.zeros(shape, np.float32)
    mask[top : top + rows, left : left + columns] = stencil[..., None]
    return mask, mask * np.float32(value)
