"""Triggers: inside the image, in [0, 1], where they were put."""

import numpy as np
import pytest

from metasg_jax.data import TRIGGERS
from metasg_jax.data.triggers import CORNERS, distributed, plus, square
from metasg_jax.errors import ConfigError

SHAPES = [(8, 8, 1), (14, 14, 1), (28, 28, 1), (32, 32, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TRIGGERS)
def test_contract(name, shape):
    mask, pattern = TRIGGERS[name](shape)
    assert mask.shape == pattern.shape == shape
    assert mask.dtype == pattern.dtype == np.float32
    assert set(np.unique(mask)) == {0.0, 1.0}
    assert (pattern >= 0).all()
    assert (pattern <= 1).all()
    assert (pattern[mask == 0] == 0).all()
    assert (mask == mask[..., :1]).all()


@pytest.mark.parametrize(("trigger", "pixels"), [(square, 9), (plus, 5), (distributed, 4)])
def test_number_of_pixels(trigger, pixels):
    assert trigger((8, 8, 1))[0].sum() == pixels
    assert trigger((32, 32, 3))[0].sum() == 3 * pixels


@pytest.mark.parametrize("corner", CORNERS)
def test_corners_touch_the_border(corner):
    mask = square((8, 10, 1), 2, corner=corner)[0][..., 0]
    row = 0 if corner.startswith("top") else -1
    column = 0 if corner.endswith("left") else -1
    assert mask[row, column] == 1
    assert mask.sum() == 4


def test_position_overrides_the_corner():
    mask, pattern = square((8, 8, 1), 2, position=(3, 4), value=0.5)
    expected = np.zeros((8, 8), np.float32)
    expected[3:5, 4:6] = 1
    np.testing.assert_array_equal(mask[..., 0], expected)
    np.testing.assert_array_equal(pattern[..., 0], expected / 2)


def test_plus_is_a_plus():
    mask = plus((5, 5, 1), 3, position=(1, 1))[0][..., 0]
    expected = [[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0] * 5]
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("name", TRIGGERS)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": 9}, "trigger size must be at most 8"),
        ({"size": 0}, "trigger size must be at least 1"),
        ({"position": (6, 0)}, r"trigger position must be in 0\.\.5, 0\.\.5"),
        ({"position": (0, -1)}, "trigger position must be in"),
        ({"corner": "middle"}, "trigger corner must be one of top_left"),
        ({"value": 1.5}, r"trigger value must be in \[0, 1\]"),
    ],
)
def test_out_of_range(name, arguments, said):
    with pytest.raises(ConfigError, match=said):
        TRIGGERS[name]((8, 8, 1), **arguments)


def test_an_even_plus_has_no_middle():
    with pytest.raises(ConfigError, match="must be odd"):
        plus((8, 8, 1), 4)


@pytest.mark.parametrize(("size", "bar", "gap"), [(3, 1, 1), (7, 3, 1), (10, 4, 2), (16, 6, 3)])
def test_bars_of_the_distributed_trigger(size, bar, gap):
    mask = distributed((28, 28, 1), size, position=(2, 5))[0][..., 0]
    want = np.zeros((28, 28))
    for row in (2, 3 + gap):
        for column in (5, 5 + bar + gap):
            want[row, column : column + bar] = 1
    np.testing.assert_array_equal(mask, want)


def test_a_distributed_trigger_has_room_for_a_gap():
    with pytest.raises(ConfigError, match="at least 3, got 2"):
        distributed((8, 8, 1), 2)
