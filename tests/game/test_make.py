"""Numbers of a rule are checked where the rule enters."""

import dataclasses

import numpy as np
import pytest

from metasg_jax.aggregators import ClippedMedian, GeometricMedian, Krum, MultiKrum, TrimmedMean
from metasg_jax.config import FLConfig, GameConfig
from metasg_jax.data.simulated import Simulated
from metasg_jax.errors import ConfigError, DataError
from metasg_jax.game.make import check_rule, make_game, make_rule, normalization
from metasg_jax.testing import tiny_dataset


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (TrimmedMean(beta=0.5), r"beta = 0.5: in \[0, 0.5\)"),
        (TrimmedMean(beta=-0.1), "beta = -0.1"),
        (Krum(f=5.0), r"f = 5: in \[0, n / 2\) with num_sampled = 10"),
        (ClippedMedian(max_norm=0.0), "max_norm = 0: above 0"),
        (MultiKrum(m=0.0), r"m = 0: in \[1, n\] with num_sampled = 10"),
        (MultiKrum(m=11.0), "m = 11"),
        (GeometricMedian(smoothing=1.0), r"smoothing = 1: in \(0, 1\)"),
        (GeometricMedian(tolerance=0.0), "tolerance = 0: above 0"),
        (GeometricMedian(iterations=0), "iterations = 0: at least 1"),
    ],
)
def test_out_of_range(rule, message):
    with pytest.raises(ConfigError, match=message):
        check_rule(rule, 10)


def test_f_is_the_rounded_share():
    assert make_rule("krum", 10, 0.2).f == 2
    assert make_rule("krum", 10, 0.26).f == 3


GAME = GameConfig(hidden=(6,), level=0.5, num_root=12, num_validation=30, target=1, types=("none",))
FL = FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=3)
GOOD = tiny_dataset()


def eye(labels):
    return np.eye(3, dtype=np.int32)[labels]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(train_y=GOOD.train_y + 1), r"train split must have labels in 0..2, got 1..3"),
        (dict(test_y=GOOD.test_y + 1), r"test split must have labels in 0..2, got 1..3"),
        (dict(train_y=GOOD.train_y - 1), r"labels in 0..2, got -1..1"),
        (dict(train_x=GOOD.train_x / np.float32(255)), "uint8 images .*, got float32"),
        (dict(test_x=GOOD.test_x / np.float32(255)), "uint8 images .*, got float32"),
        (dict(train_x=GOOD.train_x[..., 0]), r"images \[M, h, w, c\], .*got uint8 \[300, 4, 4\]"),
        (dict(train_x=GOOD.train_x[:0], train_y=GOOD.train_y[:0]), r"got uint8 \[0, 4, 4, 1\]"),
        (dict(train_y=GOOD.train_y.astype(np.float32)), "int32 labels .*, got float32"),
        (dict(train_y=eye(GOOD.train_y)), r"int32 labels \[300\].*, got int32 \[300, 3\]"),
        (dict(train_y=GOOD.train_y[:-1]), r"int32 labels \[300\].*, got int32 \[299\]"),
        (dict(test_x=GOOD.test_x[:, :3]), r"test images are \[3, 4, 1\]"),
        (dict(train_y=GOOD.train_y.tolist()), "must hold arrays, got list"),
        (dict(num_classes=2), r"labels in 0..1, got 0..2"),
        (dict(num_classes=0), "num_classes must be an integer above 0, got 0"),
        (dict(num_classes=3.0), "num_classes must be an integer above 0, got 3.0"),
    ],
)
def test_images_and_labels_handed_in_pass_the_checks_of_named_sets(changes, message):
    make_game(GAME, FL, GOOD)
    with pytest.raises(DataError, match=message):
        make_game(GAME, FL, dataclasses.replace(GOOD, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(labels=GOOD.train_y + 1), r"labels in 0..2, got 1..3"),
        (dict(labels=GOOD.train_y[1:]), "one an image"),
        (dict(images=GOOD.train_x / np.float32(255)), "uint8 images"),
        (dict(images=GOOD.train_x[:, :2, :2]), r"simulated images are \[2, 2, 1\]"),
    ],
)
def test_simulated_images_handed_in_pass_them_too(changes, message):
    simulated = Simulated(GOOD.train_x, GOOD.train_y)
    make_game(GAME, FL, GOOD, simulated)
    with pytest.raises(DataError, match=message):
        make_game(GAME, FL, GOOD, dataclasses.replace(simulated, **changes))


def test_the_assumed_share_is_what_a_trimmed_mean_trims():
    """Nine of nineteen: beta 0.2 would leave most of them in."""
    assert make_rule("trimmed_mean", 19, 0.4737).beta == pytest.approx(0.4737)
    assert make_rule("trimmed_mean:beta=0.1", 19, 0.4737).beta == pytest.approx(0.1)
    assert make_rule("nnm+trimmed_mean", 19, 0.3).rule.beta == pytest.approx(0.3)


def test_a_channel_is_normalised_by_the_root_images_in_steps_of_a_twentieth():
    images = np.full((4, 2, 2, 2), 0.46, np.float32)
    images[:2, ..., 1], images[2:, ..., 1] = 0.1, 0.7
    shift, scale = normalization(images)
    np.testing.assert_allclose(shift, (0.45, 0.4))
    np.testing.assert_allclose(scale, (0.05, 0.3))  # a channel without contrast is not blown up


@pytest.mark.parametrize(
    ("partition", "asked", "got"),
    [
        ("dirichlet", "auto", "size"),
        ("q", "auto", "equal"),
        ("dirichlet", "equal", "equal"),
        ("q", "size", "size"),
    ],
)
def test_answers_weigh_by_images_where_clients_hold_unlike_numbers_of_them(partition, asked, got):
    config = GameConfig(
        partition=partition, level=0.5, types=("none",), num_root=12, num_validation=30
    )
    fl = FLConfig(num_clients=8, num_sampled=4, weighting=asked)
    assert make_game(config, fl, tiny_dataset(side=6)).fl.weighting == got
