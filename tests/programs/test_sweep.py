"""`metasg sweep`: what is done is not done again, one table of all, and nothing bad begins."""

import json

import numpy as np
import pytest

from metasg_jax import cli
from metasg_jax.config import FLConfig, GameConfig
from metasg_jax.config.text import read_field
from metasg_jax.errors import ConfigError
from metasg_jax.evaluation.matrix import play_cell
from tests.programs.test_simulate import WORLD, run

SWEEP = ["sweep", *WORLD, "--out=out"]
RATES = ["--vary", "fl.local-lr", "0.1", "0.3"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METASG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def files_of(folder):
    return {path: path.read_bytes() for path in (folder / "out" / "runs").iterdir()}


def report(folder):
    return (folder / "out" / "sweep.md").read_text()


def rows_of(folder):
    return json.loads((folder / "out" / "sweep.json").read_text())["rows"]


def test_a_sweep_resumes_grows_and_makes_one_table(folder, capsys):
    small = [*SWEEP, "--attacks", "none", "bfl@0.2", "--seeds=2", *RATES]
    play_cell.clear_cache()  # other tests may have played the same
    programs = play_cell._cache_size()
    status, shown = run(small, capsys)
    assert status == 0 and "8/8 mean against bfl@0.2, seed 1, 0.3: score" in shown
    # seeds, attacks and floats share a program
    assert play_cell._cache_size() == programs + 1
    first, table = files_of(folder), rows_of(folder)
    assert len(first) == 8
    assert [(row["fl.local_lr"], row["attack"]) for row in table] == [
        (rate, attack) for rate in ("0.1", "0.3") for attack in ("none", "bfl@0.2")
    ]
    assert all(len(row["score"]) == 2 and row["defense"] == "mean" for row in table)
    assert table[0]["asr"] == [None, None] and None not in table[1]["asr"]
    np.testing.assert_allclose(
        table[1]["score"], np.subtract(table[1]["accuracy"], table[1]["asr"]), atol=1e-6
    )
    assert "| fl.local_lr | attack | accuracy | ASR | score |" in report(folder)
    assert "**The highest score, mean over 2 attack(s), is" in report(folder)
    assert "rule `mean`, post-training defence `none`" in report(folder)

    # nothing is left to do, and nothing changes
    status, shown = run(small, capsys)
    assert status == 0 and "8 of 8 runs are in out already" in shown and "1/8" not in shown
    assert files_of(folder) == first and rows_of(folder) == table

    # a run that is lost is played again, to the same outcome, and no other
    lost = min(first)
    lost.unlink()
    status, shown = run(small, capsys)
    assert "7 of 8 runs are in out already" in shown and shown.count(": score") == 1
    again = files_of(folder)
    assert again.keys() == first.keys() and rows_of(folder) == table

    # another seed and another post-training defence: the old files stay as they are
    status, shown = run(
        [*small[:-5], "--seeds=3", *RATES, "--posts", "none", "neuron_clip"], capsys
    )
    assert status == 0 and "8 of 24 runs are in out already" in shown
    grown = files_of(folder)
    assert len(grown) == 24 and again.items() <= grown.items()
    assert [row["post"] for row in rows_of(folder)[:2]] == ["none", "neuron_clip"]

    # other settings are other runs, beside the first; one of these two was played above
    status, shown = run([*SWEEP, "--vary", "game.hidden", "6", "4,4"], capsys)
    assert status == 0 and "1 of 2 runs are in out already" in shown
    assert len(files_of(folder)) == 25


def test_runs_side_by_side_come_to_the_same(folder, capsys):
    many = [*SWEEP[:-1], "--attacks", "none", "bfl@0.2", "--seeds=3", *RATES]
    varied = [*many, "--vary", "fl.batch-size", "4", "5", "--defenses", "mean", "fltrust"]
    assert run([*varied, "--out=out"], capsys)[0] == 0
    status, shown = run([*varied, "--out=together", "--at-once=4"], capsys)
    assert status == 0 and "48/48" in shown
    one_by_one = rows_of(folder)
    together = json.loads((folder / "together" / "sweep.json").read_text())["rows"]
    assert len(one_by_one) == 16
    for mine, theirs in zip(together, one_by_one, strict=True):
        for name in ("accuracy", "asr", "score"):
            ours, expected = (np.array(row.pop(name), float) for row in (mine, theirs))
            np.testing.assert_allclose(ours, expected, atol=0.021)  # one image of fifty
        assert mine == theirs


def test_a_damaged_run_is_named_and_a_directory_in_use_is_refused(folder, capsys):
    fcntl = pytest.importorskip("fcntl")
    assert run(SWEEP, capsys)[0] == 0
    assert "**The score, mean over 1 attack(s), is" in report(folder)
    [path] = files_of(folder)
    whole = path.read_text()
    path.write_text(whole.replace('"seed": 0', '"seed": 1'))
    status, shown = run(SWEEP, capsys)
    assert status == 1 and f"{path.name} is damaged" in shown and "remove it" in shown
    path.write_text(whole)
    with (folder / "out" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, shown = run(SWEEP, capsys)
    assert status == 1 and "another process is writing to it" in shown


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--vary", "fl.locallr", "1"], "unknown field to vary 'fl.locallr': use one of"),
        (["--vary", "fl.locallr", "1"], "did you mean 'fl.local_lr'"),
        (["--vary", "fl.local_lr"], "a field and its values, as in fl.local_lr 0.1 0.3"),
        (["--vary", "fl.local_lr", "fast"], "vary: fl.local_lr = 'fast' is not a number"),
        (["--vary", "fl.local_lr", "0.1", "-1"], "local_lr = -1.0: above 0 and finite"),
        (["--vary", "fl.local_lr", "1", "1"], "fl.local_lr = 1 1: each value only once"),
        ([*RATES, *RATES], "fl.local_lr is there twice"),
        (["--vary", "fl.num_sampled", "2.5"], "'2.5' is not a whole number"),
        (["--vary", "fl.compression", "zip"], "unknown compressor 'zip'"),
        (["--vary", "game.rule", "krum"], "game.rule has a flag of its own, use --defenses"),
        (["--vary", "game.loss", "probability"], "game.loss changes nothing"),
        (["--vary", "game.trigger_size", "3", "12"], "at most 8 for 8x8 images, got 12"),
        (["--defenses", "mean", "krumm"], "did you mean 'krum'"),
        (["--at-once=0"], "at_once = 0: at least 1"),
        (["--posts", "neuron_clap"], "did you mean 'neuron_clip'"),
        (["--vary", "fl.num_sampled", "5", "3", "--defenses", "multi_krum:m=5"], "m = 5"),
    ],
)
def test_bad_sweeps_are_refused_before_anything_is_played(folder, capsys, argv, message):
    status, shown = run([*SWEEP, *argv], capsys)
    assert status == 2 and message in shown, shown
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("cls", "name", "text", "value"),
    [
        (GameConfig, "normalize", "yes", True),
        (GameConfig, "hidden", "64", (64,)),
        (GameConfig, "trigger_position", "1,2", (1, 2)),
        (GameConfig, "root_class_share", "none", None),
        (GameConfig, "root_class_share", "0.5", 0.5),
        (FLConfig, "precision", "bfloat16", "bfloat16"),
        (FLConfig, "num_clients", "7", 7),
    ],
)
def test_a_field_is_read_by_its_type(cls, name, text, value):
    assert read_field(cls, name, text, "here") == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("normalize", "maybe", "here: one of true"),
        ("trigger_position", "1", "here: 2 values, with commas"),
        ("reward", "best", "here: one of clean"),
        ("hidden", "6,", "here is not a whole number"),
    ],
)
def test_a_text_of_another_type_is_refused(name, text, message):
    with pytest.raises(ConfigError, match=message):
        read_field(GameConfig, name, text, "here")


def test_the_help_teaches_by_an_example(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["sweep", "--help"])
    shown = capsys.readouterr().out
    assert left.value.code == 0 and "metasg sweep --attacks none ipm:scale=5@0.2" in shown
