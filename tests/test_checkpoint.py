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


def flipped(path, seed=0):
    """One bit of a file, somewhere."""
    rng, content = np.random.default_rng(seed), bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(content))


def same(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_is_refused_or_means_nothing_and_the_last_good_one_is_named(
    tmp_path, state, seed
):
    checkpoint.save(tmp_path, 1, state, CONFIG)
    checkpoint.save(tmp_path, 2, state, CONFIG)
    files = sorted(each for each in (tmp_path / "2" / "state").rglob("*") if each.is_file())
    flipped(max(files, key=lambda each: each.stat().st_size), seed)
    try:
        found = checkpoint.load(tmp_path, state, CONFIG)
    except CheckpointError as error:
        assert str(tmp_path / "2") in str(error) and "checkpoint 1 is the last good" in str(error)
    else:
        assert same(found, state)


def test_values_that_are_not_those_saved_are_refused(tmp_path, state, monkeypatch):
    """What a flip does to a large array, which Orbax keeps without a checksum."""
    other = state.replace(step=state.step + 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "digest", lambda tree, was=checkpoint.digest: was(other))
        checkpoint.save(tmp_path, 1, state, CONFIG)
    with pytest.raises(CheckpointError, match=r"1: its state is not what was saved"):
        checkpoint.load(tmp_path, state, CONFIG)


def test_settings_that_are_not_those_saved_are_refused(tmp_path, state):
    checkpoint.save(tmp_path, 1, state, CONFIG)
    checkpoint.save(tmp_path, 2, state, CONFIG)
    path = tmp_path / "2" / "_CHECKPOINT_METADATA"
    before = path.read_text()
    path.write_text(before.replace("0.99", "0.98"))
    with pytest.raises(CheckpointError, match=r"2/_CHECKPOINT_METADATA is damaged; checkpoint 1"):
        checkpoint.load_config(tmp_path)
    (tmp_path / "2" / "files.json").unlink()  # a kill came before it was written
    path.write_text(before)
    checkpoint.load(tmp_path, state, CONFIG)
    path.write_text(path.read_text().replace('"discount": 0.99', '"discount": 0.98'))
    with pytest.raises(CheckpointError, match=r"2: its settings are not .*checkpoint 1 is"):
        checkpoint.load_config(tmp_path)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="checkpoint 1 is the last good one"):
        checkpoint.load_config(tmp_path)


def test_a_checkpoint_under_the_name_of_another_step_is_refused(tmp_path, state):
    checkpoint.save(tmp_path, 1, state, CONFIG)
    (tmp_path / "1").rename(tmp_path / "5")
    with pytest.raises(CheckpointError, match="5: its settings are not"):
        checkpoint.load_config(tmp_path)


def test_a_checkpoint_without_a_digest_is_refused(tmp_path, state, monkeypatch):
    monkeypatch.setattr(checkpoint, "_sealed", lambda settings, step, state: settings)
    checkpoint.save(tmp_path, 1, state, CONFIG)
    with pytest.raises(CheckpointError, match="holds no digest of its contents: an older version"):
        checkpoint.load(tmp_path, state, CONFIG)


def test_refused_restores_print_no_screens(tmp_path, state):
    checkpoint.save(tmp_path, 1, state, CONFIG)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(tmp_path, {"other": np.zeros((3,))}, CONFIG)
    assert len(str(caught.value)) < 700
