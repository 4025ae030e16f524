"""The teacher as a program: cut at any world or pass it goes on to the same bits."""

import dataclasses
import shutil

import chex
import jax
import numpy as np
import pytest
from rich.console import Console

from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig, TeachConfig
from metasg_jax.errors import CheckpointError, ConfigError
from metasg_jax.game.make import make_game
from metasg_jax.learning.state import init_state
from metasg_jax.presets.cpu import TRUST
from metasg_jax.programs import teach
from metasg_jax.programs.dry_run import dry_run_program
from metasg_jax.programs.judge import CONTROLS
from metasg_jax.programs.pretrain import begin_with
from metasg_jax.testing import tiny_dataset

CONFIG = RunConfig(
    GameConfig(types=("none",), hidden=(6,), num_root=12, num_validation=30, **TRUST),
    FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=2),
    MetaConfig(set_hidden=(8, 8)),
    TeachConfig(worlds=2, own_play=2, passes=1, steps=10, batch=16, trims=(-1.0,)),
    ("teach",),
    clients="real",
)
DATASET = tiny_dataset(side=6)


def run(directory, resume=False, **teacher):
    game = make_game(CONFIG.game, CONFIG.fl, DATASET)
    state = init_state(jax.random.key(0), game, CONFIG.meta)
    datasets, quiet = {CONFIG.game.dataset: DATASET}, Console(quiet=True)
    kind = dataclasses.replace(CONFIG, teach=CONFIG.teach.replace(**teacher))
    return teach.teach_program([kind], datasets, state, game, directory, resume, quiet)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    return directory, run(directory)


def same(a, b):
    for left, right in zip(jax.tree.leaves(a.theta), jax.tree.leaves(b.theta), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["a world of the first pass", "a world of own play", "a pass"])
def test_a_run_that_was_cut_goes_on_to_the_same_weights(whole, cut, tmp_path):
    source, state = whole
    directory = tmp_path / "run"
    shutil.copytree(source, directory)
    if cut == "a pass":
        shutil.rmtree(directory / "teaching" / "2")
    else:
        first = 1 if cut == "a world of the first pass" else 3
        for number in range(first, 4):
            (directory / "lessons" / f"{number:04d}.npz").unlink()
        shutil.rmtree(directory / "teaching" / "2")
        if first == 1:
            shutil.rmtree(directory / "teaching" / "1")
    same(run(directory, resume=True), state)


def test_lessons_that_are_there_are_not_written_over(whole):
    with pytest.raises(CheckpointError, match="go on with --resume"):
        run(whole[0])


def test_a_damaged_lesson_is_named(whole, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(whole[0], directory)
    (directory / "lessons" / "0001.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(CheckpointError, match=r"0001\.npz can't be read"):
        run(directory, resume=True)


@pytest.mark.slow
def test_lessons_of_fewer_rounds(whole, tmp_path):
    run(tmp_path, worlds=1, own_play=0, passes=0, horizon=1)
    long, got = (teach.read_lessons(d / "lessons" / "0000.npz") for d in (whole[0], tmp_path))
    assert 2 * len(got) == len(long)


@pytest.mark.slow
def test_own_play_also_meets_who_responds(whole, tmp_path):
    run(tmp_path, worlds=0, own_play=1, responder="looking / kept")
    fixed, got = (
        teach.read_lessons(d / "lessons" / name)
        for d, name in ((whole[0], "0002.npz"), (tmp_path, "0000.npz"))
    )
    assert len(got) > len(fixed) and set(np.unique(got.harm[: len(fixed)])) <= {0, 1}
    diluted = got.harm[len(fixed) :]
    assert ((diluted >= 0) & (diluted <= 1)).all() and diluted.any()


@pytest.mark.parametrize("name", ["gradient", "looking / keeps"])
def test_a_responder_that_does_not_look_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="responder"):
        run(tmp_path, responder=name)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_says_how_long_lessons_take(capsys):
    dry_run_program(CONFIG, DATASET, Console(width=400), eval_seeds=3, selection_seeds=2)
    shown = capsys.readouterr().out
    # the learned one and its controls in 3 worlds, 16 constants in 2; types, rounds
    plays = 3 * (1 + len(CONTROLS)) + 2 * 16
    rounds = plays * len(CONFIG.game.types) * CONFIG.fl.horizon
    assert f"judging: {rounds:,} FL rounds, about" in shown
    # 2 told worlds and 2 of own play with one trim, 16 types, 2 rounds
    assert "the teacher: 128 FL rounds on 4 worlds, about" in shown and "20 steps of Adam" in shown


def test_a_learner_begins_with_a_defender(whole):
    game = make_game(CONFIG.game, CONFIG.fl, DATASET)
    fresh = init_state(jax.random.key(3), game, CONFIG.meta)
    same(begin_with(str(whole[0]), fresh), whole[1])
    same(begin_with("", fresh), fresh)
    # as the checkpoint is read: another shape could not be
    chex.assert_trees_all_equal_shapes_and_dtypes(begin_with(str(whole[0]), fresh), fresh)
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(fresh.normalizer)]
    begun = jax.tree.leaves(begin_with(str(whole[0]), fresh).normalizer)
    assert len({leaf.unsafe_buffer_pointer() for leaf in begun} - set(places)) == len(begun)
    with pytest.raises(CheckpointError, match="begin = 'v1': its policy has weights"):
        begin_with("v1", fresh)
