"""Values of a wrong size or kind on the command line: each a sentence, none a traceback or a hang."""

import numpy as np
import pytest

from metasg_jax import cli
from metasg_jax.config import Adaptation, FLConfig, GameConfig, MetaConfig, RunConfig
from metasg_jax.errors import ConfigError
from metasg_jax.game.make import make_rule
from metasg_jax.game.types import parse_type

HUGE = str(10**20)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METASG_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["simulate", "--rounds", HUGE], "rounds = 1"),
        (["matrix", "--seeds", HUGE], "seeds = 1"),
        (["simulate", "--game.seed", HUGE], "seed = 1"),
        (["simulate", "--game.seed", str(2**32)], "seed = 4294967296: at least 0, below 2**32"),
        (["pretrain", "--seed", HUGE], "seed = 1"),
        (["pretrain", "--seed", "-1"], "seed = -1"),
        (["attack", "--seed", HUGE], "seed = 1"),
        (["simulate", "--fl.num-clients", "0"], "num_clients = 0"),
        (["simulate", "--fl.num-clients", HUGE], "num_clients = 1"),
        (["simulate", "--fl.batch-size", "100000000000"], "batch_size = 100000000000"),
        (["simulate", "--fl.local-steps", HUGE], "local_steps = 1"),
        (["simulate", "--game.hidden", "99999999999"], "hidden = 99999999999"),
        (["simulate", "--game.num-root", HUGE], "num_root = 1"),
        (["pretrain", "--meta.hidden", "0"], "hidden = 0"),
        (["pretrain", "--meta.hidden", "-1"], "hidden = -1"),
        (["pretrain", "--meta.set-hidden", "0"], "set_hidden = 0"),
        (["pretrain", "--meta.group-size", HUGE], "group_size = 1"),
        (["pretrain", "--memory-gib", "inf"], "memory_gib = inf"),
        (["pretrain", "--steps", HUGE], "steps = 1"),
        (["pretrain", "--eval-seeds", "-1"], "eval_seeds = -1"),
        (["pretrain", "--grid", "-1", "2", "2"], "grid = -1 2 2"),
        (["simulate", "--fl.local-lr", "1e-46"], "local_lr = 1e-46"),
        (["simulate", "--fl.server-lr", "1e-46"], "server_lr = 1e-46"),
        (["simulate", "--fl.local-lr", "1e39"], "local_lr = 1e+39"),
        (["pretrain", "--meta.defender-lr", "1e-46"], "defender_lr = 1e-46"),
        (["pretrain", "--meta.adapt-lr", "inf"], "adapt_lr = inf"),
        (["simulate", "--defense", "norm_bound:max_norm=1e-46"], "max_norm = 1e-46"),
        (["simulate", "--defense", "centered_clip:iterations=1e9"], "iterations = 1e+09"),
        (["simulate", "--attack", "ipm:scale=1e-46@0.2"], "scale = 1e-46"),
        (["simulate", "--attack", "ipm:scale=1e39@0.2"], "scale = 1e+39"),
        (["simulate", "--out", "a\0b"], "null character"),
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_named(argv, message, tmp_path, capsys):
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not list(tmp_path.glob("runs*"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["data", "--data-dir", "~nobody-here/x"], "data_dir ~nobody-here/x"),
        (["exploit", "krum", "--attackers", "/nonexistent"], "attackers: /nonexistent is no"),
        (["evaluate", "--run", "/dev/null"], "no complete checkpoint in /dev/null"),
        (["certify", "/nonexistent"], "no complete checkpoint in /nonexistent"),
        (["adapt", "--run", "/nonexistent"], "no complete checkpoint in /nonexistent"),
    ],
)
def test_a_place_that_is_not_there_is_named(argv, message, capsys):
    assert cli.main(argv) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_an_error_of_the_system_is_a_sentence(monkeypatch, capsys):
    for error, message in (
        (OSError(28, "No space left on device", "a.txt"), "a.txt: No space left on device"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"), "not enough memory"),
    ):

        def fails(*args, error=error):
            raise error

        monkeypatch.setitem(cli.COMMANDS, "list", cli.Command(object, fails))
        assert cli.main(["list"]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64, 0.5, True, None])
def test_seeds_beyond_32_bits_are_refused_wherever_they_enter(seed):
    """jax.random.key(2**32) is key(0): another seed would silently be the same one."""
    for config in (GameConfig(seed=seed), RunConfig(seed=seed), Adaptation(world=seed, block=1)):
        with pytest.raises(ConfigError, match=r"(seed|world) = "):
            config.check(*([10] if isinstance(config, Adaptation) else []))
    for good in (0, 2**32 - 1, np.int64(7)):
        GameConfig(seed=good).check()
        RunConfig(seed=good).check()


@pytest.mark.parametrize("value", [1e-46, 1e-38, 1e-39, 0.0, -1.0, 1e39, np.inf, np.nan])
def test_step_sizes_are_numbers_of_float32(value):
    for config in (
        FLConfig(local_lr=value), FLConfig(server_lr=value), MetaConfig(init_std=value)
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="in float32 too"):
            config.check()
    if value != 0:
        with pytest.raises(ConfigError, match="in float32 too"):
            MetaConfig(outer_lr=value).check()
        for text in (f"ipm:scale={value}@0.2", f"gaussian:sigma={value}@0.2"):
            with pytest.raises(ConfigError):
                parse_type(text, 10)
        if value != np.inf:  # no bound
            with pytest.raises(ConfigError, match="max_norm"):
                make_rule("norm_bound:max_norm=" + f"{value}".replace("+", ""), 10, 0.2)
