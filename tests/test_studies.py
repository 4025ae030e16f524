"""The experiments' machinery on a small game: stages, files, pairing, tables."""

import dataclasses
import io
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig
from metasg_jax.errors import CheckpointError
from metasg_jax.game import make_game
from metasg_jax.learning import init_state
from metasg_jax.testing import tiny_dataset

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

from study import program, report, stages, training  # noqa: E402
from study.settings import LEARNERS, Study, World  # noqa: E402

GAME = GameConfig(
    types=("none", "ipm:scale=2@0.25", "bfl:boost=2@0.25"),
    hidden=(6,), level=0.5, num_root=12, num_validation=30,
    target=1,
)  # fmt: skip
FL = FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=4, local_lr=0.5)
META = MetaConfig(hidden=(4,), init_std=0.9, adapt_lr=0.1)
STUDY = Study(
    "A small game", ("bse",), World(GAME, FL), training_seeds=(5, 6), selection_worlds=2,
    final_worlds=2, grid=(3, 2, 2), phase=2, repeats=2, psi_steps=1, psi_size=20.0, adjusted=2,
    static=(("mean", "none"), ("fltrust", "neuron_clip")),
)  # fmt: skip
DATASET = tiny_dataset(side=6)

pytestmark = pytest.mark.slow  # half a minute of compiling for scripts that a session plays once


def a_learner(name, seed, runs, dataset):
    """In place of a run from the disk: a fresh policy."""
    config = RunConfig(GAME, FL, META)
    return config, init_state(jax.random.key(seed), make_game(GAME, FL, DATASET), META)


def play(study, folder, monkeypatch):
    monkeypatch.setattr(stages, "trained", a_learner)
    monkeypatch.setattr(program, "load", lambda name: DATASET)
    monkeypatch.setattr(program, "enable_compilation_cache", lambda: None)
    run = program.Run(outcomes=folder)
    for stage in stages.STAGES:
        units = [f"it/{stage}/{s}" for s in range(stages.number_of_worlds(study, stage))]
        program.work(run, {"it": study}, units)
    return run, report.Outcomes.read(run.place({"it": study}, "it"))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield play(STUDY, tmp_path_factory.mktemp("study"), patch)


def test_constant_actions_and_static_rules_share_the_worlds_randomness(outcomes):
    """So the plain mean is the grid's open end, and the best fixed action a point of the grid."""
    run, found = outcomes
    place = run.place({"it": STUDY}, "it")
    actions = stages.tried(STUDY)
    open_end = np.argmax((actions == [1, -1, 1]).all(axis=1))
    np.testing.assert_allclose(found.score("mean")[0], found.grid[:, :, open_end], atol=1e-6)
    best, per_type = stages.selected(place)
    at = np.argmax((actions == best).all(axis=1))
    np.testing.assert_allclose(found.score("best fixed")[0], found.grid[:, :, at], atol=1e-6)
    for k, action in enumerate(per_type):
        at = np.argmax((actions == action).all(axis=1))
        np.testing.assert_allclose(found.score("oracle")[0][:, k], found.grid[:, k, at], atol=1e-6)


def test_every_control_is_there_for_every_seed_world_and_type(outcomes):
    _, found = outcomes
    by_seed = {"learned", "untrained", "swapped input", "shuffled input",
               "told the type and adapted"}  # fmt: skip
    expected = {f"{name}, bse" for name in by_seed} | {"random"}
    once = {
        "best fixed",
        "oracle",
        "two-phase, statistics",
        "mean",
        "fltrust + neuron_clip",
    }
    assert set(found.by_name) == expected | once
    for name, values in found.by_name.items():
        assert values.shape == (2 if name in expected else 1, 2, 3, 3)
        assert np.isfinite(values[..., :2]).all()
    assert found.told["statistics"].shape == (2, 3)


def test_the_page_says_what_was_found(outcomes, tmp_path):
    _, found = outcomes
    text = report.section(found, tmp_path / "a.png", Console(file=io.StringIO(), width=200))
    assert (tmp_path / "a.png").stat().st_size > 5000
    for name in (*found.by_name, *GAME.types):
        assert name in text
    fixed, oracle = found.hindsight()
    assert f"{(fixed @ found.q).mean():.3f}" in text and f"{(oracle @ found.q).mean():.3f}" in text


def test_adjusted_normalisers_join_the_moments(outcomes):
    """Of two worlds they are those of both lists of observations as one."""
    run, _ = outcomes
    place = run.place({"it": STUDY}, "it")
    rng = np.random.default_rng(0)
    seen = [rng.normal(i, 1 + i, (7 + i, 3)) for i in range(2)]
    moments = [
        np.concatenate([[len(x)], x.mean(axis=0), ((x - x.mean(axis=0)) ** 2).sum(axis=0)])
        for x in seen
    ]
    normalizer = stages.joined(moments)
    both = np.concatenate(seen)
    assert float(normalizer.count) == len(both)
    np.testing.assert_allclose(normalizer.mean, both.mean(axis=0), rtol=1e-5)
    variance = normalizer.m2 / normalizer.count
    np.testing.assert_allclose(variance, both.var(axis=0), rtol=1e-5)
    parts = place.read("normalize", 2)
    counts = [part["bse|5"][0] for part in parts]
    assert counts == [len(GAME.types) * FL.horizon] * 2
    assert float(stages.adjusted(place, "bse", 5).count) == sum(counts)


def test_controls_are_what_they_say(outcomes):
    """Swapped input is the next type's actions, adapted parameters are not the frozen ones."""
    run, found = outcomes
    place = run.place({"it": STUDY}, "it")
    config, state = a_learner("", 6, None, None)
    judge = stages.Judge(place, DATASET, 1)
    player = stages.defender_player(
        state.replace(normalizer=stages.adjusted(place, "bse", 6)), judge.game, META, True
    )
    # as many as the study played side by side, here and below: its programs serve
    played = judge.policies(judge.game, stages.stacked([player] * 4))
    np.testing.assert_allclose(
        played.metrics.score[:, 0], found.score("learned, bse")[1, 1], atol=1e-6
    )
    actions = np.asarray(played.action)[:, 0]
    judge.schedules(judge.game, [("again", np.roll(actions, -1, axis=0))] * 5)
    again = np.array(judge.outcomes["again"])[0, :, 0]
    np.testing.assert_allclose(again, found.score("swapped input, bse")[1, 1], atol=1e-6)
    adapted, frozen = (
        found.score(f"{name}, bse") for name in ("told the type and adapted", "learned")
    )
    assert not np.array_equal(adapted, frozen)


def test_outcomes_of_other_settings_are_not_read(outcomes):
    run, _ = outcomes
    changed = dataclasses.replace(STUDY, psi_size=0.5)
    place = run.place({"it": changed}, "it")
    assert not place.is_played("final", 0)
    with pytest.raises(SystemExit, match="final of worlds"):
        report.Outcomes.read(place)
    retitled = dataclasses.replace(STUDY, title="another title")
    assert run.place({"it": retitled}, "it").is_played("final", 0)
    more = dataclasses.replace(STUDY, selection_worlds=3)
    places = [run.place({"it": each}, "it") for each in (STUDY, more)]
    assert places[0].file("references", 0) == places[1].file("references", 0)
    assert places[0].file("first_phase", 0) != places[1].file("first_phase", 0)


@pytest.mark.slow
def test_switching_controls_play_in_turn(tmp_path, monkeypatch):
    """The oracle's first half is that of the first type; the informed control looks again."""
    study = dataclasses.replace(
        STUDY, world=World(GAME, FL, second=1, at=2), static=(), psi_steps=0, adjusted=0, phase=1
    )
    _, found = play(study, tmp_path, monkeypatch)
    assert {"oracle", "oracle, the second's only", "two-phase, statistics",
            "two-phase, statistics, told when"} <= set(found.by_name)  # fmt: skip
    text = report.section(found, tmp_path / "a.png", Console(file=io.StringIO(), width=200))
    assert "none, then ipm:scale=2@0.25" in text and "recovery, selection" not in text


def test_the_page_is_written_with_its_settings(outcomes, tmp_path):
    run, _ = outcomes
    run = dataclasses.replace(run, out=tmp_path)
    about = "A page.\n\n    python experiments/it.py    # all of it\n\nWhat it is about.\n"
    quiet = Console(file=io.StringIO(), width=200)
    program.report("it", run, {"it": STUDY}, about, None, quiet)
    text = (tmp_path / "it.md").read_text()
    assert text.startswith("# A page\n") and "`python experiments/it.py`" in text
    assert "What it is about." in text and (tmp_path / "it-it.png").is_file()
    assert json.loads((tmp_path / "it.json").read_text()) == program.settings({"it": STUDY})


def test_a_worker_is_told_its_worlds_after_what_a_person_said():
    argv = ["--stage", "play", "--units", "a/final/0", "a/final/1"]
    assert program._split(argv) == (["--stage", "play"], ["a/final/0", "a/final/1"])
    assert program._split(["--stage", "all"]) == (["--stage", "all"], [])


def test_a_run_of_other_settings_is_refused(tmp_path, monkeypatch):
    config = training.asked("bse")
    (tmp_path / "bse-7" / "checkpoints").mkdir(parents=True)
    kept = {"config": dataclasses.replace(config, seed=7), "step": 28}
    kept["config"] = dataclasses.replace(
        kept["config"], game=dataclasses.replace(config.game, seed=7)
    )
    monkeypatch.setattr(training.checkpoint, "latest_step", lambda folder: kept["step"])
    monkeypatch.setattr(training.checkpoint, "load_config", lambda folder: kept["config"])
    assert training.is_finished("bse", 7, tmp_path)
    kept["step"] = 20
    assert not training.is_finished("bse", 7, tmp_path)
    with pytest.raises(CheckpointError, match="seed 7: not trained yet"):
        training.trained("bse", 7, tmp_path, DATASET)
    kept["config"] = dataclasses.replace(
        kept["config"], meta=kept["config"].meta.replace(discount=0.5)
    )
    with pytest.raises(SystemExit, match=r"discount: 0\.5, not 0\.9"):
        training.is_finished("bse", 7, tmp_path)


def test_left_out_references_by_hand():
    """Each world's actions are chosen on the other one."""
    scores = np.array([[[0.5, 0.9], [0.5, 0.0]], [[0.4, 0.1], [0.6, 0.8]]])
    q = np.array([0.5, 0.5])
    fixed, oracle = report.left_out(scores, q)
    # world 0 by world 1: means 0.5, 0.45; per type 0, 1. World 1 by world 0: 0.5, 0.45; 1, 0
    np.testing.assert_allclose(fixed, [[0.5, 0.5], [0.4, 0.6]])
    np.testing.assert_allclose(oracle, [[0.5, 0.0], [0.1, 0.6]])


def test_studies_that_choose_alike_share_their_selection_worlds(outcomes):
    run, _ = outcomes
    other = dataclasses.replace(STUDY, title="other", world=World(GAME, FL, second=1, at=2))
    places = [run.place({"it": each}, "it") for each in (STUDY, other)]
    assert places[0].file("references", 0) == places[1].file("references", 0)
    coarser = dataclasses.replace(STUDY, grid=(2, 2, 2))
    assert run.place({"it": coarser}, "it").file("references", 0) != places[0].file("references", 0)


def test_references_by_hand():
    """Two worlds, two types, three actions: one is best on average, another for each type."""
    scores = np.array(
        [[[0.5, 0.9, 0.0], [0.5, 0.0, 0.8]], [[0.7, 0.9, 0.2], [0.5, 0.2, 0.8]]], float
    )
    q = np.array([0.5, 0.5])
    actions = np.array([[0.0], [1.0], [2.0]])
    best, per_type = stages.chosen(scores, actions, q)
    assert best.tolist() == [0.0] and per_type.tolist() == [[1.0], [2.0]]
    fixed, oracle = report.hindsight(scores, q)
    np.testing.assert_allclose(fixed, [[0.5, 0.5], [0.7, 0.5]])
    np.testing.assert_allclose(oracle, [[0.9, 0.8], [0.9, 0.8]])


def test_what_a_learner_sees_is_what_its_run_is_told():
    assert LEARNERS["bse-recurrent"].observation == "reservoir"
    assert LEARNERS["bse"].observation == "statistics"
