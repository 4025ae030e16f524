"""Random crops and mirror images."""

import jax
import numpy as np

from metasg_jax.fl.augment import crop_and_flip


def test_each_image_is_a_crop_of_itself_over_black_and_half_of_them_are_mirrored():
    x = np.random.default_rng(0).uniform(0.1, 1, size=(2, 40, 8, 8, 3)).astype(np.float32)
    got = np.asarray(jax.jit(crop_and_flip)(jax.random.key(0), x)).reshape(-1, 8, 8, 3)
    assert got.shape == (80, 8, 8, 3)
    mirrored, moves = 0, set()
    for image, made in zip(x.reshape(-1, 8, 8, 3), got, strict=True):
        found = []
        for flip in (False, True):
            padded = np.pad(image[:, ::-1] if flip else image, ((1, 1), (1, 1), (0, 0)))
            found += [
                (flip, i, j)
                for i in range(3)
                for j in range(3)
                if np.array_equal(padded[i : i + 8, j : j + 8], made)
            ]
        assert len(found) == 1
        mirrored += found[0][0]
        moves.add(found[0][1:])
    assert 25 < mirrored < 55 and len(moves) == 9


def test_other_keys_make_other_images():
    x = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype(np.float32)
    one, other = (crop_and_flip(jax.random.key(k), x) for k in range(2))
    assert not np.array_equal(one, other)
