"""The server's own images: of the root images alone, and no copies where new ones are promised."""

import dataclasses
import functools
from typing import get_args, get_type_hints

import numpy as np
import pytest
from rich.console import Console

from metasg_jax.config import FLConfig, GameConfig, RunConfig
from metasg_jax.data import load
from metasg_jax.data.dataset import pool_images
from metasg_jax.data.simulated import SIMULATIONS, generated, simulate
from metasg_jax.data.simulated.neighbours import neighbours
from metasg_jax.errors import CheckpointError, ConfigError
from metasg_jax.game.make import make_game, splits_of
from metasg_jax.programs.pretrain import training_games
from metasg_jax.programs.simulated_images import own_images

GAME = GameConfig(hidden=(6,), num_root=60, num_validation=100, pool=2)
FL = FLConfig(num_clients=20, num_sampled=5, batch_size=4, horizon=2)
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """The generative model learns for a few steps only."""
    module = __import__("sys").modules[generated.__module__]
    monkeypatch.setattr(module, "Clean", functools.partial(module.Clean, width=16, blocks=1))
    monkeypatch.setattr(module, "STEPS", 30)
    monkeypatch.setattr(module, "_SHOWN", 200)


def root_of(digits, game=GAME):
    return splits_of(np.random.default_rng(game.seed), game, digits).root


def test_settings_name_what_is_registered():
    choices = get_args(get_type_hints(RunConfig)["clients"])
    assert choices == ("real", *SIMULATIONS)
    with pytest.raises(ConfigError, match="clients = 'imagined'"):
        RunConfig(clients="imagined").check()


@pytest.mark.parametrize("kind", SIMULATIONS)
def test_images_are_made_of_the_root_alone(kind, digits):
    root = root_of(digits)
    made = simulate(kind, digits, root, 110, 2, 5)
    assert made.images.shape == (110, 4, 4, 1) and made.images.dtype == np.uint8
    assert np.bincount(made.labels, minlength=10).tolist() == [11] * 10
    # all other images may change
    others = np.setdiff1d(np.arange(len(digits.train_y)), root)
    noise = np.array(digits.train_x)
    noise[others] = 255 - noise[others]
    elsewhere = dataclasses.replace(digits, train_x=noise, test_x=255 - digits.test_x)
    again = simulate(kind, elsewhere, root, 110, 2, 5)
    np.testing.assert_array_equal(made.images, again.images)
    assert (made.images != simulate(kind, digits, root, 110, 2, 6).images).any()


@pytest.mark.parametrize("kind", ["repeated", "augmented"])
def test_every_made_image_resembles_a_root_image_of_its_label(kind, digits):
    root = root_of(digits)
    x, y = pool_images(digits.train_x[root], 1), digits.train_y[root]
    made = simulate(kind, digits, root, 200, 1, 0)
    distance = [
        neighbours(image[None], x[y == label]).nearest[0]
        for image, label in zip(made.images, made.labels, strict=True)
    ]
    # rounding leaves some 1e-8 between equal images
    assert max(distance) < 1e-6 if kind == "repeated" else 0.01 < np.median(distance) < 0.3


def test_copies_are_counted():
    rng = np.random.default_rng(0)
    root = rng.integers(0, 256, (20, 5, 5, 1)).astype(np.uint8)
    found = neighbours(np.concatenate([root[:3], 255 - root[:3]]), root)
    assert found.copies == pytest.approx(0.5) and found.nearest[:3].max() < 1e-6
    assert found.apart.min() > 0.2


def test_the_game_of_an_own_world_reads_no_clients_images(digits, tmp_path):
    """Its server holds the images that it will hold; all others are made."""
    config = RunConfig(GAME, FL, clients="augmented", num_simulated=120, levels=(0.1, 0.9))
    made = own_images(config, digits, tmp_path, QUIET)
    games = training_games(config, digits, made)
    real = make_game(GAME, FL, digits)
    for game in games:
        np.testing.assert_array_equal(np.sort(game.root_x, 0), np.sort(real.root_x, 0))
        allowed = {image.tobytes() for image in made.images}
        root = {image.tobytes() for image in np.asarray(real.data.images[root_of(digits)])}
        images = np.asarray(game.data.images)
        for owner in range(FL.num_clients):
            mine = images[np.asarray(game.data.index[owner])]
            assert {image.tobytes() for image in mine} <= allowed
        assert {image.tobytes() for image in images} <= allowed | root
        assert {image.tobytes() for image in np.asarray(game.test_x)} <= allowed
        assert not set(np.asarray(game.data.index)[:-1].ravel()) & set(range(12)), "validation"


def test_images_are_kept_beside_the_run_and_made_anew_for_other_settings(digits, tmp_path):
    config = RunConfig(GAME, FL, clients="augmented", num_simulated=120)
    made = own_images(config, digits, tmp_path, QUIET)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"simulated.npz", "simulated.png", "simulated.md"}
    assert "120 images made of 60" in (tmp_path / "simulated.md").read_text()
    kept = dict(np.load(tmp_path / "simulated.npz"))
    kept["images"] = 255 - kept["images"]
    np.savez(tmp_path / "simulated.npz", **kept)
    again = own_images(config, digits, tmp_path, QUIET)
    np.testing.assert_array_equal(again.images, 255 - made.images)
    other = dataclasses.replace(config, num_simulated=130)
    assert len(own_images(other, digits, tmp_path, QUIET).labels) == 130
    assert own_images(RunConfig(GAME, FL), digits, tmp_path, QUIET) is None
    with pytest.raises(ConfigError, match="num_simulated = 50: at least 100"):
        own_images(dataclasses.replace(config, num_simulated=50), digits, tmp_path, QUIET)


def damaged(path, kind):
    content = bytearray(path.read_bytes())
    if kind == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes({"empty": b"", "cut": bytes(content[:-40])}.get(kind, bytes(content)))
    if kind == "pickled":
        np.savez(path, made_with=np.array([{}], object))
    if kind == "other":
        np.savez(path, images=np.zeros(3))


@pytest.mark.parametrize("kind", ["empty", "cut", "flipped", "pickled", "other"])
def test_images_that_can_not_be_read_are_made_again(digits, tmp_path, kind):
    config = RunConfig(GAME, FL, clients="augmented", num_simulated=120)
    made = own_images(config, digits, tmp_path, QUIET)
    damaged(tmp_path / "simulated.npz", kind)
    again = own_images(config, digits, tmp_path, QUIET, begun=True)
    np.testing.assert_array_equal(again.images, made.images)
    generated = dataclasses.replace(config, clients="generated")
    damaged(tmp_path / "simulated.npz", "empty")
    with pytest.raises(CheckpointError, match=r"simulated.npz can't be read .*from a copy"):
        own_images(generated, digits, tmp_path, QUIET, begun=True)
