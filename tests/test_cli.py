"""The command line: exit codes, messages, and runs that resume to the same bits."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from metasg_jax import cli
from metasg_jax.aggregators import AGGREGATORS
from metasg_jax.attacks import BACKDOOR, UNTARGETED
from metasg_jax.errors import ConfigError, NonFinitePolicyError
from metasg_jax.programs import budget, device, run_directory

# a run of the whole chain, as small as it gets
TINY = [
    "pretrain", "--dataset=digits", "--preset=smoke", "--steps=4", "--eval-seeds=0",
    "--game.types", "none", "ipm@0.2", "--game.hidden", "8", "--fl.horizon=3", "--fl.num-sampled=3",
    "--game.observation=paper",
]  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    """Variables of a child: its own compilation cache, compiled fast rather than well."""
    return {
        **os.environ,
        "COLUMNS": "200",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "METASG_CACHE_DIR": str(folder / "cache"),
    }


def metasg(*args, cwd):
    return subprocess.run(
        [sys.executable, "-m", "metasg_jax.cli", *args],
        cwd=cwd, env=environment(cwd), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["pretran"], 2, "did you mean 'pretrain'"),
        (["pretrain", "--dataset", "mnits"], 2, "did you mean 'mnist'"),
        (["pretrain", "--preset", "cpuu"], 2, "did you mean 'cpu'"),
        (["pretrain", "--game.rule", "krumm"], 2, "did you mean 'krum'"),
        (["pretrain", "--game.types", "ipmm@0.2"], 2, "did you mean 'ipm'"),
        (["pretrain", "--game.types", "ipm@0.9+bfl@0.9"], 2, "attackers but num_clients"),
        (["pretrain", "--game.types", "bfl@0.001"], 2, "is nobody"),
        (
            ["pretrain", "--preset=smoke", "--game.rule=krum", "--game.post-defense=none"],
            2,
            "nothing to learn",
        ),
        (["pretrain", "--fl.num-sampled", "500"], 2, "num_sampled = 500"),
        (["pretrain", "--fl.horizon", "0"], 2, "horizon = 0"),
        (["pretrain", "--game.assumed-share", "0.6"], 2, "assumed_share = 0.6"),
        (["pretrain", "--steps", "0"], 2, "steps = 0"),
        (["pretrain", "--memory-gib", "-1"], 2, "memory_gib = -1"),
        (["pretrain", "--keep", "-1"], 2, "keep = -1"),
        (["pretrain", "--meta.rollouts-at-once", "-2"], 2, "rollouts_at_once = -2"),
        (["pretrain", "--source", "miror"], 2, "did you mean 'mirror'"),
        (["pretrain", "--game.dataset", "mnist"], 2, "name the data set by --dataset"),
        (["data", "--dataset", "mnist", "--data-dir", "no_such_place"], 1, "no_such_place"),
        (["evaluate", "--run", "no_such_run"], 1, "no complete checkpoint in no_such_run"),
        (["evaluate", "--dataset", "digits"], 1, "metasg pretrain"),
    ],
)
def test_bad_input_is_named(argv, status, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == status
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_list_shows_every_variant(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in (*AGGREGATORS, *UNTARGETED, *BACKDOOR):
        assert re.search(rf"\b{name}\b", shown)


def test_help_names_the_commands(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("pretrain", "evaluate", "certify", "data", "list"))


def test_the_doctor_names_what_is_missing(tmp_path, capsys, monkeypatch):
    """A damaged cache of a data set is an error with its remedy; one that was never made is none."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("METASG_CACHE_DIR", str(tmp_path))
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "nothing is missing" in shown and "jaxlib" in shown and "defender v1" in shown
    assert "metasg data --dataset mnist" in shown
    (tmp_path / "mnist.npz").write_bytes(b"damaged")
    assert cli.main(["doctor"]) == 1
    assert "`metasg data --dataset mnist` makes it again" in capsys.readouterr().out


def state_of(directory: Path):
    """Every leaf of the newest checkpoint, as bytes."""
    import jax

    from metasg_jax import checkpoint
    from metasg_jax.data import load
    from metasg_jax.programs.load import load_run, load_state

    config, checkpoints = load_run(directory)
    state = load_state(config, checkpoints, load("digits"))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)], checkpoint.latest_step(
        checkpoints
    )


@pytest.mark.slow
def test_kill_and_resume_and_other_chunks_give_the_same_bits(tmp_path):
    """kill -9 in mid-run, --resume, and the state equals that of a run that was left alone."""
    process = subprocess.Popen(
        [sys.executable, "-m", "metasg_jax.cli", *TINY, "--out=killed", "--chunk=1", "--steps=900"],
        cwd=tmp_path, env=environment(tmp_path),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    lines = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (lines.is_file() and lines.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()

    _, reached = state_of(tmp_path / "killed")
    assert 1 <= reached < 900
    steps = f"--steps={reached + 2}"
    resumed = metasg(*TINY, "--out=killed", "--chunk=1", "--resume", steps, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert f"after meta-step {reached}" in resumed.stdout
    # never killed, and all of it one chunk
    whole = metasg(*TINY, "--out=whole", f"--chunk={reached + 2}", steps, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert state_of(tmp_path / "killed") == state_of(tmp_path / "whole")
    rows = [json.loads(line)["step"] for line in lines.read_text().splitlines()]
    assert rows == list(range(1, reached + 3))

    other = metasg(*TINY, "--out=whole", "--resume", "--meta.discount=0.5", cwd=tmp_path)
    assert other.returncode == 1 and "meta.discount: 0.9, not 0.5" in other.stderr
    taken = metasg(*TINY, "--out=whole", cwd=tmp_path)
    assert taken.returncode == 2 and "is not empty" in taken.stderr


def test_dry_run_prints_the_cost_and_writes_nothing(tmp_path, monkeypatch, capsys):

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    # the cache of the tests stays as it is
    monkeypatch.setattr(device, "enable_compilation_cache", lambda: None)
    assert cli.main([*TINY, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    # 4 meta-steps x 2 types x (1 adaptation + 1 play) x 2 rollouts x 3 rounds
    for text in ("updates", "activations", "trajectory", "at the peak", "2 of 2", "96 at most",
                 "24 a meta-step", "FLOP", "compiling the probe", "FL rounds a second"):  # fmt: skip
        assert text in shown
    assert list(tmp_path.iterdir()) == []
    assert cli.main([*TINY, "--dry-run", "--memory-gib=1e-6"]) == 2
    error = capsys.readouterr().err
    assert "memory_gib = 1e-06: one rollout at a time needs" in error


@pytest.mark.slow
def test_the_chosen_chunk_is_kept_when_the_run_goes_on(tmp_path, monkeypatch):
    """Chosen when the run began; with less memory later on it is still the same program."""
    from rich.console import Console

    from metasg_jax import checkpoint
    from metasg_jax.data import load
    from metasg_jax.presets import PRESETS
    from metasg_jax.programs.pretrain import pretrain_program

    config = PRESETS["smoke"].get_config("digits")
    game = dataclasses.replace(config.game, types=("none",), hidden=(8,), observation="paper")
    config = dataclasses.replace(config, game=game, fl=config.fl.replace(horizon=2), steps=1)
    assert config.meta.rollouts_at_once == -1
    asked = []
    monkeypatch.setattr(budget, "fit", lambda *args: asked.append(args) or 1)
    args = load("digits"), tmp_path / "run"
    pretrain_program(config, *args, False, Console(quiet=True))
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["meta"]["rollouts_at_once"] == 1 and len(asked) == 1
    longer = dataclasses.replace(config, steps=2, memory_gib=3.0)
    pretrain_program(longer, *args, True, Console(quiet=True))
    assert len(asked) == 1
    kept = checkpoint.load_config(tmp_path / "run" / "checkpoints")
    assert kept.meta.rollouts_at_once == 1 and kept.steps == 2


@pytest.mark.slow
def test_levels_take_turns_and_chunks_change_nothing(tmp_path):
    """Three meta-steps at two heterogeneities: the third is the first one's partition again."""
    import jax
    from rich.console import Console

    from metasg_jax.data import load
    from metasg_jax.presets import PRESETS
    from metasg_jax.programs.pretrain import pretrain_program, training_games

    config = PRESETS["smoke"].get_config("digits")
    game = dataclasses.replace(config.game, types=("none",), hidden=(8,), observation="paper")
    config = dataclasses.replace(
        config, game=game, fl=config.fl.replace(horizon=2), levels=(0.1, 0.9), steps=3
    )
    digits, quiet = load("digits"), Console(quiet=True)
    games = training_games(config, digits)
    assert not np.array_equal(games[0].data.index, games[1].data.index)
    assert games[0].data.index.shape == games[1].data.index.shape
    states = [
        pretrain_program(
            dataclasses.replace(config, chunk=chunk), digits, tmp_path / str(chunk), False, quiet
        )
        for chunk in (1, 3)
    ]
    one = dataclasses.replace(config, levels=(), chunk=3)
    alone = pretrain_program(one, digits, tmp_path / "alone", False, quiet)
    leaves = [jax.tree.leaves(state.theta) for state in (*states, alone)]
    for a, b in zip(leaves[0], leaves[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(a, c) for a, c in zip(leaves[0], leaves[2], strict=True))


def test_new_directories_never_collide(tmp_path):
    first = run_directory.new_directory(tmp_path, "digits-cpu")
    first.mkdir()
    (first / "config.json").write_text("{}")
    assert run_directory.new_directory(tmp_path, "digits-cpu").name == "digits-cpu-2"


def test_metrics_cut_off_in_the_middle_of_a_line_are_mended(tmp_path):
    rows = [{"step": step, "return_D": step / 3} for step in (1, 2, 3)]
    run_directory.append_metrics(tmp_path, rows[:2])
    path = tmp_path / "metrics.jsonl"
    two = path.read_text()
    run_directory.append_metrics(tmp_path, rows[2:])
    path.write_text(path.read_text() + '{"st')
    assert run_directory.keep_metrics_until(tmp_path, 2) == rows[:2]
    assert path.read_text() == two


def test_a_reward_that_is_not_finite_names_the_type():
    from metasg_jax.programs.pretrain import _require_finite_rewards

    fine = {"type/return_D": np.zeros((3, 2)), "type/return_A": np.zeros((3, 2))}
    fine["update_norm"] = np.zeros(3)
    _require_finite_rewards(fine, 4, ("none", "ipm"))
    bad = {**fine, "type/return_A": np.array([[0, 0], [0, np.inf], [np.nan, np.nan]])}
    with pytest.raises(ConfigError, match="type 'ipm' pays r_A that is not finite in meta-step 6"):
        _require_finite_rewards(bad, 4, ("none", "ipm"))
    # a policy that broke before pays NaN too: that is another error
    _require_finite_rewards({**bad, "update_norm": np.array([np.nan, 0, 0])}, 4, ("none", "ipm"))


def test_a_policy_gone_non_finite_names_the_step(tmp_path):
    from metasg_jax.programs.pretrain import _require_finite

    _require_finite({"finite": np.array([True, True])}, 4, tmp_path)
    with pytest.raises(NonFinitePolicyError, match=r"no longer finite after meta-step 6 .*lower"):
        _require_finite({"finite": np.array([True, False, False])}, 4, tmp_path)
