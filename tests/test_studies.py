"""The experiments' machinery on a small game: stages, files, pairing, tables."""

import dataclasses
import io
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig
from metasg_jax.game import make_game
from metasg_jax.learning import init_state
from metasg_jax.testing import tiny_dataset

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

from study import program, report, stages  # noqa: E402
from study.settings import LEARNERS, Study, World, types_at  # noqa: E402

GAME = GameConfig(
    types=("none", "ipm:scale=2@0.25", "bfl:boost=2@0.25"),
    hidden=(6,), level=0.5, num_root=12, num_validation=30,
    target=1,
)  # fmt: skip
FL = FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=4, local_lr=0.5)
META = MetaConfig(hidden=(4,), init_std=0.9, adapt_lr=0.1)
STUDY = Study(
    "A small game", ("card-q0.9",), World(GAME, FL), training_seeds=(5, 6), selection_worlds=2,
    final_worlds=2, grid=(3, 2, 2), phase=2, repeats=2, psi_steps=1, adjusted=1,
    static=(("mean", "none"), ("krum", "none"), ("fltrust", "neuron_clip")),
)  # fmt: skip
DATASET = tiny_dataset(side=6)


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
    by_seed = {"learned", "swapped input", "shuffled input",
               "told the type and adapted"}  # fmt: skip
    expected = {f"{name}, card-q0.9" for name in by_seed} | {"random"}
    once = {
        "untrained, card-q0.9", "best fixed", "oracle", "two-phase, statistics", "mean", "krum",
        "fltrust + neuron_clip",
    }  # fmt: skip
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
    run, _ = outcomes
    place = run.place({"it": STUDY}, "it")
    part = place.read("normalize", 1)[0]["card-q0.9|5"]
    normalizer = stages.adjusted(place, "card-q0.9", 5)
    size = (len(part) - 1) // 2
    assert float(normalizer.count) == part[0] == len(GAME.types) * FL.horizon
    np.testing.assert_allclose(normalizer.mean, part[1 : 1 + size], rtol=1e-5, atol=1e-6)


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


def test_shares_in_whole_clients():
    assert types_at(0.2) == GameConfig().types
    assert types_at(0.1)[5] == "bfl@0.03" and types_at(0.3)[5] == "bfl@0.08"


def test_what_a_learner_sees_is_what_its_run_is_told():
    assert LEARNERS["inversion-q0.9"].observation == "inversion"
    assert LEARNERS["card-q0.9"].observation == "statistics"
