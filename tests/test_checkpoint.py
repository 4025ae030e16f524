"""Checkpoints: round trip, other settings named, a failed save loses nothing."""

import dataclasses

import jax
import numpy as np
import pytest

from metasg_jax import checkpoint
from metasg_jax.config import MetaConfig, RunConfig
from metasg_jax.errors import CheckpointError
from metasg_jax.learning import init_state
from metasg_jax.presets import PRESETS
from metasg_jax.testing import probe_game

CONFIG = RunConfig(meta=MetaConfig(hidden=(4,), optimizer="adam"))


@pytest.fixture
def state():
    return init_state(jax.random.key(0), probe_game(), CONFIG.meta)


def test_round_trip_is_bitwise(tmp_path, state):
    checkpoint.save(tmp_path, 3, state, CONFIG)
    loaded = checkpoint.load(tmp_path, jax.eval_shape(lambda: state), CONFIG)
    assert checkpoint.latest_step(tmp_path) == 3
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(state), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10"])
def test_settings_survive_json(preset, dataset):
    config = PRESETS[preset].get_config(dataset)
    config.check()
    assert checkpoint.config_from_json(checkpoint.config_to_json(config)) == config


def test_other_settings_are_named_and_steps_may_differ(tmp_path, state):
    checkpoint.save(tmp_path, 1, state, CONFIG)
    longer = dataclasses.replace(CONFIG, steps=999, chunk=7)
    checkpoint.load(tmp_path, state, longer)
    other = dataclasses.replace(CONFIG, meta=CONFIG.meta.replace(group_size=8, discount=0.5))
    with pytest.raises(
        CheckpointError, match=r"meta.discount: 0.99, not 0.5; meta.group_size: 4, not 8"
    ):
        checkpoint.load(tmp_path, state, other)


def test_nothing_there(tmp_path, state):
    assert checkpoint.latest_step(tmp_path / "no") is None
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        checkpoint.load(tmp_path, state, CONFIG)


def test_full_disk_during_a_save_keeps_the_previous_one(tmp_path, state, monkeypatch):
    checkpoint.save(tmp_path, 1, state, CONFIG)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.ocp.training.Checkpointer, "save", full)
        with pytest.raises(CheckpointError, match=r"No space left.*--resume"):
            checkpoint.save(tmp_path, 2, state, CONFIG)
    assert checkpoint.latest_step(tmp_path) == 1
    checkpoint.load(tmp_path, state, CONFIG)


def test_a_save_cut_off_in_the_middle_is_not_a_checkpoint(tmp_path, state):
    checkpoint.save(tmp_path, 1, state, CONFIG)
    # what a killed save leaves: Orbax commits by renaming a temporary directory
    partial = tmp_path / "2.orbax-checkpoint-tmp"
    partial.mkdir()
    (partial / "state").write_text("half")
    assert checkpoint.latest_step(tmp_path) == 1
    checkpoint.save(tmp_path, 3, state, CONFIG)
    assert checkpoint.latest_step(tmp_path) == 3


def test_the_last_two_are_kept(tmp_path, state):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, state, CONFIG)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["2", "3"]


@pytest.mark.parametrize(("keep", "left"), [(0, [1, 2, 3, 4]), (1, [4]), (3, [2, 3, 4])])
def test_as_many_are_kept_as_asked_for(tmp_path, state, keep, left):
    config = dataclasses.replace(CONFIG, keep=keep)
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path, step, state, config)
    assert checkpoint.saved_steps(tmp_path) == left
    checkpoint.load(tmp_path, state, CONFIG)  # goes on with another number


def test_a_given_step_is_loaded(tmp_path, state):
    other = state.replace(step=state.step + 7)
    checkpoint.save(tmp_path, 1, state, CONFIG)
    checkpoint.save(tmp_path, 2, other, dataclasses.replace(CONFIG, steps=99))
    assert checkpoint.load(tmp_path, state, CONFIG, 1).num_steps == 0
    assert checkpoint.load(tmp_path, state, CONFIG).num_steps == 7
    assert checkpoint.load_config(tmp_path, 1).steps == CONFIG.steps
    assert checkpoint.load_config(tmp_path).steps == 99
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 3 in .*: 1, 2"):
        checkpoint.load(tmp_path, state, CONFIG, 3)


def test_a_damaged_checkpoint_is_named(tmp_path, state):
    checkpoint.save(tmp_path, 1, state, CONFIG)
    for path in (tmp_path / "1" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"x")
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path, state, CONFIG)
