"""`metasg certify`: rows, tables, plot and files; what is known is not computed again."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest
from rich.console import Console

from metasg_jax import checkpoint, cli
from metasg_jax.config import MetaConfig
from metasg_jax.data import load
from metasg_jax.errors import ConfigError
from metasg_jax.game.make import make_game
from metasg_jax.learning import init_state
from metasg_jax.presets import PRESETS
from metasg_jax.programs import certify, device
from metasg_jax.programs.certify import PRIOR, Budget, Row, read_rows, tables, write_rows
from metasg_jax.programs.certify.page import used_step_sizes
from metasg_jax.programs.pretrain import pretrain_program
from metasg_jax.testing import probe_game
from tests.runs import untrained

SETTINGS = MetaConfig(
    group_size=4, normalize=False, hidden=(), learn_std=False, rollouts_at_once=1 << 10
)


def config_of_run():
    """Settings of the whole chain, as small as it gets, with a checkpoint after each of 2 steps."""
    config = PRESETS["smoke"].get_config("digits")
    game = dataclasses.replace(
        config.game, types=("ipm@0.2", "rl:max_steps=2@0.2"), hidden=(8,), observation="paper"
    )
    fl = config.fl.replace(horizon=3, num_sampled=3)
    return dataclasses.replace(config, game=game, fl=fl, keep=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose learner has not learned."""
    directory = tmp_path_factory.mktemp("certify") / "run"
    untrained(config_of_run(), load("digits"), directory, steps=(1, 2))
    return directory


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose learner has."""
    directory = tmp_path_factory.mktemp("certify") / "trained"
    pretrain_program(config_of_run(), load("digits"), directory, False, Console(quiet=True))
    return directory


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """The compilation cache of the tests stays as it is; and tables are wide."""
    monkeypatch.setattr(device, "enable_compilation_cache", lambda: None)
    monkeypatch.setenv("COLUMNS", "300")


@pytest.mark.slow
def test_a_run_is_certified_once(trained, capsys, monkeypatch):
    run = trained
    command = ["certify", str(run), "--batches=8", "--points=1"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    for text in ("the defender's residual", "strict competitiveness", "Theorem D.7", "rl:max_steps",
                 "certified 2 of 2 checkpoints"):  # fmt: skip
        assert text in out
    rows = read_rows(run / "certify.csv")
    assert {row.step for row in rows} == {1, 2}
    assert {(row.batches, row.points, row.seed) for row in rows} == {(8, 1, 0)}
    attackers = {row.type for row in rows if row.quantity == "attacker"}
    assert attackers == {"rl:max_steps=2@0.2"}
    for row in rows:
        if row.quantity in ("defender", "attacker", "L22"):
            assert row.plain >= 0 and row.squared_error > 0 and row.bound > 0
            assert math.isnan(row.estimate) == (row.squared < 2 * row.squared_error)
    # IPM alone is strictly competitive where it attacks
    slope = [r.estimate for r in rows if (r.type, r.quantity) == ("ipm@0.2", "c (with)")]
    np.testing.assert_allclose(slope, -1.0, atol=1e-3)
    text = (run / "certify.md").read_text()
    assert "‖∇θ E_Q L_D‖" in text
    assert (run / "certify.png").stat().st_size > 10_000

    def fail(*args):
        raise AssertionError("it was computed again")

    monkeypatch.setattr(certify.program, "certify_state", fail)
    (run / "certify.md").unlink()
    assert cli.main(command) == 0
    assert "certified 0 of 2 checkpoints" in capsys.readouterr().out
    assert (run / "certify.md").read_text() == text
    # one checkpoint, by its directory
    assert cli.main(["certify", str(run / "checkpoints" / "2"), *command[2:]]) == 0
    assert "certified 0 of 1 checkpoints" in capsys.readouterr().out
    assert repr(read_rows(run / "certify.csv")) == repr(rows)
    with pytest.raises(AssertionError, match="computed again"):
        cli.main([*command, "--seed=1"])


def test_a_changed_checkpoint_is_another_one(run):
    config = checkpoint.load_config(run / "checkpoints", 1)
    game = make_game(config.game, config.fl, load("digits"))
    states = [
        checkpoint.load(
            run / "checkpoints", init_state(jax.random.key(0), game, config.meta), config, step
        )
        for step in (1, 2)
    ]
    digests = [certify.digest(state) for state in states]
    assert digests[0] != digests[1] == certify.digest(states[1])


@pytest.mark.parametrize(
    ("path", "options", "status", "message"),
    [
        ("nowhere", [], 1, "no complete checkpoint in nowhere"),
        ("{run}/checkpoints/7", [], 1, "no checkpoint of step 7 in {run}; there are: 1, 2"),
        ("{run}", ["--batches=7"], 2, "batches = 7: an even number of at least 8"),
        ("{run}", ["--points=-1"], 2, "points = -1"),
        ("{run}", ["--source=miror"], 2, "did you mean 'mirror'"),
    ],
)
def test_bad_input_is_named(run, path, options, status, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["certify", path.format(run=run), *options]) == status
    error = capsys.readouterr().err
    assert message.format(run=run) in error and "Traceback" not in error


def test_a_run_of_another_version_is_named(run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for file in copy.rglob("*"):
        if file.is_file() and b'"learn_std"' in (content := file.read_bytes()):
            file.write_bytes(content.replace(b'"learn_std"', b'"learns_it"'))
    assert cli.main(["certify", str(copy)]) == 1
    assert "_CHECKPOINT_METADATA is damaged" in capsys.readouterr().err


def test_a_file_that_is_no_certificate_is_left_alone(run, tmp_path, capsys):
    (tmp_path / "certify.csv").write_text("a,b\n1,2\n")
    options = ["--batches=8", "--points=0", f"--out={tmp_path}"]
    assert cli.main(["certify", str(run), *options]) == 2
    assert "is not a certificate of this version" in capsys.readouterr().err
    assert (tmp_path / "certify.csv").read_text() == "a,b\n1,2\n"


def test_rows_survive_the_file(tmp_path):
    rows = [
        Row(5, "12e4567890ab", 32, 4, 0, PRIOR, "defender", math.nan, bound=0.1, needed=3e4),
        Row(5, "12e4567890ab", 32, 4, 0, "a, b", "mu", math.inf),
    ]
    write_rows(rows, tmp_path / "certify.csv")
    assert repr(read_rows(tmp_path / "certify.csv")) == repr(rows)
    assert [f.name for f in tmp_path.iterdir()] == ["certify.csv"]
    assert read_rows(tmp_path / "no.csv") == []


def test_what_is_not_resolved_is_no_small_number():
    row = Row(1, "", 8, 0, 0, PRIOR, "defender", math.nan, bound=0.0312, needed=12_345.0)
    assert row.text == "below 0.031 (too few rollouts: about 12,000 needed)"
    assert row.short == "below 0.031 (too few)"
    clear = dataclasses.replace(row, estimate=0.5, error=0.0625)
    assert clear.text == clear.short == "0.5 ± 0.062"
    nothing = dataclasses.replace(row, bound=0.0)
    assert nothing.text == "0"


def test_without_adaptive_types_there_is_no_attackers_part():
    game = probe_game(adaptive=(False, False))
    state = init_state(jax.random.key(0), game, SETTINGS)
    rows = certify.certify_state(state, game, SETTINGS, Budget(8, 2))
    assert {r.quantity for r in rows} >= {"defender", "defender fixed"}
    assert not any(r.quantity.startswith(("attacker", "L", "mu")) for r in rows)
    found = {title: (body, note) for title, _, body, note in tables(rows, SETTINGS, game)}
    body, note = next(v for k, v in found.items() if k.startswith("the attackers"))
    assert body == [] and "meta-defence problem (C3)" in note
    assert not any("Theorem D.7" in title for title in found)


def test_every_checkpoint_gets_the_same_random_numbers():
    game = probe_game()
    state = init_state(jax.random.key(0), game, SETTINGS)
    first, again, other = (
        certify.certify_state(state, game, SETTINGS, Budget(8, 0, seed)) for seed in (0, 0, 1)
    )
    assert repr(first) == repr(again) != repr(other)


def test_step_sizes_used_are_the_learners():
    assert used_step_sizes(SETTINGS.replace(outer_lr=0.5, defender_lr=0.1)) == (
        "0.001",
        "0.05",
    )
    assert used_step_sizes(SETTINGS.replace(optimizer="adam"))[0] == "Adam 0.001"


def test_a_budget_that_does_not_do_is_named():
    with pytest.raises(ConfigError, match="batches = 9: an even number"):
        Budget(9).check(SETTINGS)
    with pytest.raises(ConfigError, match="gradient = 'evolution'"):
        Budget().check(SETTINGS.replace(gradient="evolution"))


@pytest.mark.slow
def test_all_checkpoints_are_kept_where_asked(trained):
    assert checkpoint.saved_steps(trained / "checkpoints") == [1, 2]
    assert json.loads((trained / "config.json").read_text())["keep"] == 0
