"""The root images bent, turned, moved and stretched a little, each time another way."""

import numpy as np
from scipy import ndimage

from metasg_jax.data.dataset import pool_images
from metasg_jax.data.simulated.repeated import balanced

_TURN, _SHEAR = np.deg2rad(15), 0.2
_ZOOM, _SHIFT = 0.12, 0.06
_BEND, _SMOOTH = 0.07, 0.15
_GAIN = 0.15


def augmented(
    rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, count: int, factor: int
) -> tuple[np.ndarray, np.ndarray]:
    """See :mod:`metasg_jax.data.simulated`.

    Rotation by up to 15 degrees, shear, zoom by an eighth, shifts of 6 % of a side, an elastic
    bend (Simard et al., 2003) and brighter or darker strokes. Images in colour are mirrored too.
    """
    chosen = balanced(rng, labels, count)
    made = np.stack([_bent(rng, images[i]) for i in chosen])
    return pool_images(made, factor), labels[chosen]


def _bent(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    height, width, channels = image.shape
    sides = np.array([height, width])
    turn, shear = rng.uniform(-_TURN, _TURN), rng.uniform(-_SHEAR, _SHEAR)
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1.0, shear], [0.0, 1.0]])
    matrix = matrix / rng.uniform(1 - _ZOOM, 1 + _ZOOM, size=2)
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")).astype(float)
    middle = (sides - 1) / 2
    moved = rng.uniform(-_SHIFT, _SHIFT, size=2) * sides
    places = np.tensordot(matrix, grid - middle[:, None, None], axes=1)
    places += (middle + moved)[:, None, None]
    # displacements of random direction, smoothed to bends of a seventh of a side
    noise = rng.uniform(-1, 1, size=(2, height, width))
    bend = np.stack([ndimage.gaussian_filter(each, _SMOOTH * height) for each in noise])
    places += bend * (_BEND * height * rng.uniform() / max(np.abs(bend).max(), 1e-9))
    made = np.stack(
        [
            ndimage.map_coordinates(image[..., c].astype(float), places, order=1, mode="nearest")
            for c in range(channels)
        ],
        axis=-1,
    )
    if channels == 3 and rng.uniform() < 0.5:
        made = made[:, ::-1]
    made = made * rng.uniform(1 - _GAIN, 1 + _GAIN)
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)
