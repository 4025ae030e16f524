"""Grids of constant actions."""

import numpy as np

from metasg_jax.evaluation.controls import action_grid, whole_grid

RULE = ("clip", "trim")


def test_levels_of_the_post_training_defence_vary_fastest():
    actions, levels = whole_grid(3, 2, 4, RULE, ("range",))
    assert actions.shape == (24, 3)
    np.testing.assert_array_equal(levels, actions[:4, -1])
    np.testing.assert_array_equal(actions[::4, :2], action_grid(3, 2)[:, :2])
    assert (np.diff(levels) < 0).all() and levels[0] == 1


def test_without_a_knob_there_is_one_level_and_no_column():
    actions, levels = whole_grid(3, 2, 4, RULE, ())
    np.testing.assert_array_equal(actions, action_grid(3, 2)[:, :2])
    np.testing.assert_array_equal(levels, [1.0])
