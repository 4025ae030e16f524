"""`metasg simulate` and `metasg matrix`: the same bits however they are cut, and readable output."""

import csv
import re

import numpy as np
import pytest

from metasg_jax import cli
from metasg_jax.evaluation import attack_suite
from metasg_jax.evaluation.matrix import (
    assemble,
    defence_rows,
    play_cell,
    worst_case,
)
from metasg_jax.game import make_post_defense, make_rule, parse_type
from metasg_jax.models import make_model

WORLD = [
    "--game.hidden", "6", "--fl.num-clients=10", "--fl.num-sampled=5", "--fl.batch-size=4",
    "--game.num-root=20", "--game.num-test=50", "--game.num-validation=20", "--rounds=3",
]  # fmt: skip
MATRIX = ["matrix", *WORLD, "--seeds=2", "--out=out"]


def run(argv, capsys):
    status = cli.main(argv)
    shown = capsys.readouterr()
    return status, shown.out + shown.err


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def outcomes(path):
    """Everything but the time that a run took."""
    keys = ("attack", "rule", "post", "seed")
    rows = table(path)
    found = {
        tuple(row[k] for k in keys): {k: v for k, v in row.items() if k != "seconds"}
        for row in rows
    }
    assert len(found) == len(rows)  # no run is written twice
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METASG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def test_simulate_shows_and_writes_a_run(folder, capsys):
    argv = [
        "simulate", *WORLD, "--attack=ipm@0.2+bfl@0.2", "--defense=nnm+median",
        "--post", "none", "neuron_clip", "--out=sim",
    ]  # fmt: skip
    status, shown = run(argv, capsys)
    assert status == 0
    assert "ipm@0.2+bfl@0.2 against nnm+median, 3 rounds" in shown and "rows rejected" in shown
    rows = table(folder / "sim" / "simulation.csv")
    assert [(row["round"], row["post"]) for row in rows] == [
        (str(t), post) for t in (1, 2, 3) for post in ("none", "neuron_clip")
    ]
    assert all(0 <= float(row["accuracy"]) <= 1 and 0 <= float(row["asr"]) <= 1 for row in rows)
    assert (folder / "sim" / "simulation.png").stat().st_size > 5000
    before = sorted(folder.rglob("*.csv"))
    assert run(argv[:-1], capsys)[0] == 0
    assert sorted(folder.rglob("*.csv")) == before and not (folder / "runs").exists()


def test_a_matrix_is_a_sweep_with_tables_of_its_own(folder, capsys):
    small = [*MATRIX, "--defenses", "mean", "median", "--posts", "none", "neuron_clip"]
    play_cell.clear_cache()  # other tests may have played the same
    programs = play_cell._cache_size()
    status, shown = run([*small, "--attacks", "none", "bfl@0.2"], capsys)
    assert status == 0 and "defences by their worst case" in shown
    assert play_cell._cache_size() == programs + 2  # one a rule, for all attacks and seeds
    path = folder / "out" / "matrix.csv"
    whole = outcomes(path)
    assert len(whole) == 2 * 2 * 2 * 2
    report = (folder / "out" / "matrix.md").read_text()
    assert "**Of 4 defences `" in report and "has the best worst case" in report
    listed = [line.split(" | ")[0] for line in report.splitlines() if line.startswith("| m")]
    assert sorted(listed) == ["| mean", "| median"]  # a row a rule
    assert (folder / "out" / "matrix.png").stat().st_size > 5000

    # another attack: only its runs are played, and the table is of what was asked for
    status, shown = run([*small, "--attacks", "none", "ipm@0.2"], capsys)
    assert status == 0 and "8 of 16 runs are in out already" in shown
    grown = outcomes(path)
    assert len(grown) == 16 and {k for k in whole if k[0] == "none"} < grown.keys()
    assert all(grown[k] == v for k, v in whole.items() if k[0] == "none")

    # other settings are other runs, and the first are still there
    status, shown = run([*small, "--attacks=none", "--fl.local-lr=0.2"], capsys)
    assert status == 0 and "already" not in shown
    run([*small, "--attacks", "none", "bfl@0.2"], capsys)
    assert outcomes(path) == whole


def test_a_directory_that_is_in_use_or_can_not_be_is_refused(folder, capsys):
    import fcntl

    (folder / "file").write_text("")
    small = [*MATRIX, "--attacks=none", "--defenses=mean"]
    for argv in (["simulate", *WORLD, "--out=file"], [*small[:-3], *small[-2:], "--out=file"]):
        status, shown = run(argv, capsys)
        assert status == 2 and "out = file: File exists" in shown
    (folder / "out").mkdir()
    with (folder / "out" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, shown = run(small, capsys)
    assert status == 1 and "out: another process is writing to it" in shown


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["simulate", "--attack", "ipmm@0.2"], "did you mean 'ipm'"),
        (["simulate", "--defense", "krumm"], "did you mean 'krum'"),
        (["simulate", "--post", "neuron_clap"], "did you mean 'neuron_clip'"),
        (["simulate", "--rounds", "0"], "rounds = 0: at least 1"),
        (["simulate", "--game.rule", "krum"], "game.rule = 'krum': not read here, use --defense"),
        (["simulate", "--game.types", "none"], "not read here, use --attack"),
        (["simulate", "--game.trigger-size", "12"], "at most 8 for 8x8 images, got 12"),
        (["simulate", "--game.target", "10"], "target = 10: between 0 and 9"),
        (["simulate", "--attack", "dba@0.2", "--game.trigger-size=1"], "parts = 4: at most 1"),
        (["matrix", "--attacks", "none", "none"], "none, none: each only once"),
        (["matrix", "--seeds", "0"], "seeds = 0: at least 1"),
        (["matrix", "--defenses", "bulyan"], "Bulyan: f = 2: at most 1"),
        (
            ["matrix", "--attacks", "bfl@0.005"],
            "a share of 0.005 of 50 clients is nobody; at least 0.02",
        ),
        (["simulate", "--attack", "ipm:scale=inf@0.2"], "IPM: scale = inf: above 0 and finite"),
        (["simulate", "--attack", "alie:z=nan@0.2"], "ALIE: z = nan: a finite number"),
        (["simulate", "--attack", "dba:parts=nan@0.2"], "a whole number"),
        (["simulate", "--attack", "ipm:scale=2,scale=3@0.2"], "scale .* is set twice"),
        (["simulate", "--defense", "clipped_trimmed_mean:clip=nan"], r"clip = nan: in \[-1, 1\]"),
        (["simulate", "--fl.local-lr", "inf"], "local_lr = inf: above 0 and finite"),
        (["simulate", "--game.hidden", "0"], r"hidden = 0: at least 1, at most"),
        (["simulate", "--game.model", "cnn"], r"hidden = \(32,\): a cnn has"),
        (["simulate", "--game.seed", "-1"], "seed = -1: at least 0"),
    ],
)
def test_bad_input_is_named_before_anything_is_played(argv, message, folder, capsys):
    status, shown = run(argv, capsys)
    assert status == 2 and re.search(message, shown), shown
    assert not (folder / "runs").exists()


def test_the_default_zoo_is_legal():
    model = make_model("mlp", (14, 14, 1), 10, (8,))
    for text in (*attack_suite.ZOO, *attack_suite.OWN_KNOWLEDGE):
        parse_type(text, 100)
    for text in attack_suite.RULES:
        make_rule(text, 10, 0.2, model)
    for text in attack_suite.POSTS:
        make_post_defense(text)


def example():
    """Two attacks, two rules, one defence, three seeds; scores by hand."""
    scores = {
        ("none", "mean"): [0.9, 0.8, 1.0],
        ("none", "krum"): [0.8, 0.8, 0.8],
        ("bfl@0.1", "mean"): [-0.1, 0.1, 0.0],
        ("bfl@0.1", "krum"): [0.7, 0.9, 0.8],
    }
    rows = [
        dict(attack=a, rule=r, post="none", seed=str(s), accuracy=v if a == "none" else 0.9,
             asr="nan" if a == "none" else 0.9 - v, score=v)
        for (a, r), values in scores.items()
        for s, v in enumerate(values)
    ]  # fmt: skip
    return rows, assemble(("none", "bfl@0.1"), ("mean", "krum"), ("none",), 3, rows)


def test_worst_cases_and_tables_by_hand():
    _, matrix = example()
    worst, which = worst_case(matrix)
    np.testing.assert_allclose(worst[:, 0], [0.0, 0.8], atol=1e-12)
    assert which[0, 0] == 1
    header, rows = defence_rows(matrix)
    first, second = (dict(zip(header, row, strict=True)) for row in rows)
    assert (first["rule"], first["worst score"], first["clean accuracy"]) == (
        "krum",
        "0.800",
        "0.800",
    )
    assert first["cost against mean"] == "+0.100 ± 0.058"
    assert (second["rule"], second["by"], second["mean score"]) == ("mean", "bfl@0.1", "0.450")


def test_cells_that_were_not_played_stay_empty():
    rows, _ = example()
    matrix = assemble(("none", "ipm@0.2"), ("mean",), ("none",), 3, rows)
    assert np.isfinite(matrix.score[0]).all() and np.isnan(matrix.score[1]).all()
