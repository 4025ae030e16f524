"""Meta-steps on many devices: the numbers of one; what can't be shared out is refused by name."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax import checkpoint, cli
from metasg_jax.config import GameConfig, MetaConfig, RunConfig
from metasg_jax.errors import CheckpointError, ConfigError, JoinError
from metasg_jax.fl.axes import over, over_rollouts
from metasg_jax.learning import init_state, pretrain
from metasg_jax.programs import processes
from metasg_jax.programs.mesh import check_mesh, make_mesh, parse_mesh, pretrain_on
from metasg_jax.testing import probe_game, tiny_game

ROOT = Path(__file__).parents[2]
GAME = probe_game((0.5, -0.5), (0.3, 0.0), (True, False), (0.25, 0.75))
CONFIG = MetaConfig(group_size=2, num_groups=2, hidden=(4,), attacker_steps=1)


def mesh_of(text):
    return make_mesh(parse_mesh(text))


def mapped(mesh, fun, *args):
    everywhere = jax.P()
    run = jax.shard_map(fun, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False)
    return jax.jit(run)(*args)


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def alone():
    state = init_state(jax.random.key(0), GAME, CONFIG)
    return pretrain(jax.random.key(1), state, GAME, CONFIG, 2)


@pytest.mark.parametrize("text", ["types=2,rollouts=4", "rollouts=2"])
def test_meta_steps_on_a_mesh_give_the_numbers_of_one_device(text, alone):
    state = init_state(jax.random.key(0), GAME, CONFIG)
    close(pretrain_on(mesh_of(text))(jax.random.key(1), state, GAME, CONFIG, 2), alone)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["score", "evolution"])
def test_a_federation_on_all_three_axes(gradient):
    game = tiny_game(("none", "rl:max_steps=2@0.25"))
    config = CONFIG.replace(gradient=gradient)
    state = init_state(jax.random.key(0), game, config)
    shared = pretrain_on(mesh_of("types=2,rollouts=2,clients=2"))
    out = shared(jax.random.key(1), state, game, config, 1)
    close(out, pretrain(jax.random.key(1), state, game, config, 1))


@pytest.mark.parametrize("n", [1, 3, 4, 7, 8])
@pytest.mark.parametrize("axis", ["types", "clients"])
def test_rows_come_back_in_their_order(axis, n):
    """Also those that the devices do not divide, or that are fewer than these."""
    rows = {"a": jnp.arange(3.0 * n).reshape(n, 3), "b": jnp.arange(n)}

    def fun(rows):
        return over(axis, lambda part: jax.tree.map(lambda leaf: 2 * leaf, part), rows)

    doubled = mapped(mesh_of(f"{axis}=4"), fun, rows)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, 2 * b), doubled, rows)


@pytest.mark.parametrize(
    ("groups", "size", "devices"), [(4, 2, 2), (2, 4, 8), (3, 4, 6), (1, 8, 4)]
)
def test_each_rollout_of_a_batch_is_played_once_in_its_place(groups, size, devices):
    def play(group, member, num_groups, group_size):
        assert num_groups * group_size * devices == groups * size
        first, then = jnp.arange(num_groups)[:, None], jnp.arange(group_size)[None]
        return 10 * (group + first) + member + then

    played = mapped(mesh_of(f"rollouts={devices}"), lambda: over_rollouts(play, groups, size))
    expected = 10 * np.arange(groups)[:, None] + np.arange(size)[None]
    np.testing.assert_array_equal(played, expected)


def test_without_a_mesh_nothing_is_shared_out():
    jaxpr = str(jax.make_jaxpr(lambda rows: over("clients", jnp.sin, rows))(jnp.ones((4, 2))))
    assert "all_gather" not in jaxpr and "axis_index" not in jaxpr


def test_checkpoints_of_one_mesh_are_read_on_another(tmp_path):
    """States that are spread over 8 devices, whole on 4, or on one: what is read is the same."""
    config = RunConfig(meta=CONFIG)
    game = probe_game(*[(0.1,) * 8] * 2, (False,) * 8, (0.125,) * 8)
    state = init_state(jax.random.key(0), game, CONFIG)
    kept = checkpoint.digest(state)
    for step, (text, spec) in enumerate(
        (("types=8", "types"), ("rollouts=4", None), ("", None)), 1
    ):
        saved = state
        if text:
            place = jax.NamedSharding(mesh_of(text), jax.P())
            by_type = jax.NamedSharding(mesh_of(text), jax.P(spec))
            saved = jax.device_put(state, place).replace(phi=jax.device_put(state.phi, by_type))
            assert len(jax.tree.leaves(saved.phi)[0].sharding.device_set) == int(text[-1])
        checkpoint.save(tmp_path, step, saved, config)
        loaded = checkpoint.load(tmp_path, jax.eval_shape(lambda: state), config)
        assert checkpoint.digest(loaded) == kept
        assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(loaded))


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh(tmp_path, alone):
    """A step on 8 devices, one on 4 from its checkpoint; one device makes both in one program."""
    config = RunConfig(meta=CONFIG)
    state = init_state(jax.random.key(0), GAME, CONFIG)
    for step, text in enumerate(("types=2,rollouts=4", "types=2,rollouts=2"), 1):
        state, _ = pretrain_on(mesh_of(text))(jax.random.key(1), state, GAME, CONFIG, 1)
        checkpoint.save(tmp_path, step, state, config)
        state = checkpoint.load(tmp_path, state, config)
    close(state, alone[0])


def test_a_checkpoint_of_another_model_is_refused_and_kept(tmp_path):
    state = init_state(jax.random.key(0), GAME, CONFIG)
    checkpoint.save(tmp_path, 1, state, RunConfig(meta=CONFIG))
    other = RunConfig(GameConfig(model="cnn"), meta=CONFIG)
    with pytest.raises(CheckpointError, match=r"game.model: 'mlp', not 'cnn'"):
        checkpoint.load(tmp_path, state, other)
    assert checkpoint.saved_steps(tmp_path) == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("devices=4", "'devices': each of types, rollouts, clients at most once"),
        ("types=2,types=2", "'types': each of types, rollouts, clients at most once"),
        ("types", "types = '': a number of devices, 1 or more"),
        ("types=0", "types = '0': a number of devices, 1 or more"),
        ("types=²", "a number of devices"),
        ("types=4,rollouts=4", r"16 devices are asked for, allowed are at most the 8"),
    ],
)
def test_no_mesh(text, message):
    with pytest.raises(ConfigError, match=message):
        mesh_of(text)


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("types=3", {}, r"mesh.types = 3: a divisor of 4 \(game.types .*\): 1, 2, 4$"),
        ("types=4", {"population": 2}, r"mesh.types = 4: a divisor of 6"),
        ("rollouts=3", {}, r"mesh.rollouts = 3: a divisor of 4 .*num_groups.*: 1, 2, 4$"),
        ("rollouts=4", {"gradient": "evolution"}, r"rollouts = 4: a divisor of 2 \(the pairs of"),
        ("clients=3", {}, r"mesh.clients = 3: a divisor of 10 \(fl.num_sampled\): 1, 2, 5, 10$"),
        ("clients=2", {"gradient": "pathwise"}, "mesh.clients = 2: 1 with meta.gradient"),
    ],
)
def test_a_mesh_that_does_not_divide_the_work(text, settings, message):
    game = GameConfig(types=("none", "ipm@0.2", "eb@0.2", "bfl@0.2"))
    config = RunConfig(game, meta=MetaConfig(group_size=4, **settings))
    with pytest.raises(ConfigError, match=message):
        check_mesh(parse_mesh(text), config)


def test_the_teacher_is_on_one_device():
    config = RunConfig(stages=("teach", "meta"))
    with pytest.raises(ConfigError, match=r"stages = .*teach.*: with a mesh, meta alone"):
        check_mesh(parse_mesh("types=1"), config)


@pytest.mark.parametrize(
    ("mesh", "status", "message"),
    [
        ("type=2", 2, "each of types, rollouts, clients"),
        ("types=3", 2, "mesh.types = 3"),
        ("types=4 --join-within=inf", 2, "join_within = inf: above 0"),
    ],
)
def test_the_command_refuses_before_it_begins(mesh, status, message, tmp_path, capsys):
    argv = ["pretrain", "--preset=smoke", "--stages", "meta", *f"--mesh={mesh}".split()]
    assert cli.main([*argv, f"--out={tmp_path / 'run'}"]) == status
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def launcher(count, rank, port):
    return {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(rank)}  # fmt: skip


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_two_processes_give_the_numbers_of_one_device(tmp_path, port, alone):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.programs.play_on_mesh", str(tmp_path / "run")],
            env=os.environ | launcher(2, rank, port) | {"PYTHONPATH": paths},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        told = [child.communicate(timeout=240)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], "\n".join(told)
    digests = {line for text in told for line in text.splitlines() if line.startswith("digest")}
    assert len(digests) == 1
    assert all("processes [1] differ from process 0 in a number" in text for text in told)
    state = checkpoint.load(tmp_path / "run" / "checkpoints", alone[0], RunConfig(meta=CONFIG))
    close(state, alone[0])


@pytest.mark.parametrize(
    ("count", "rank", "message"),
    [
        (3, 0, r"processes \[1, 2\] of 3 did not join at 127.0.0.1:\d+ within 0.5 s"),
        (3, 2, r"process 0 of 3 did not join .* as process 2 has it"),
    ],
)
def test_who_never_joins_is_named(count, rank, message, port, monkeypatch):
    for name, value in launcher(count, rank, port).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(JoinError, match=message):
        processes.join(0.5)


def test_who_joined_hears_who_did_not(port, monkeypatch):
    """And whoever else knocks at the port is not counted."""
    heard = []

    def other():
        heard.append(processes._call(f"127.0.0.1:{port}", 1, time.monotonic() + 20))

    def stranger():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as line:
            line.sendall(b"GET / HTTP/1.1")

    thread = threading.Thread(target=other)
    thread.start()
    threading.Timer(0.7, stranger).start()
    for name, value in launcher(3, 0, port).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(JoinError, match="process 2 of 3 did not join"):
        processes.join(2)
    thread.join(20)
    assert heard == [[2]]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "all three"),
        ({"JAX_COORDINATOR_ADDRESS": "here:1"}, "all three"),
        ({**launcher(2, 2, 1)}, "the last from 0, below the second"),
        ({**launcher(2, 0, 1), "JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID = 'one'"),
        ({**launcher(2, 0, 1), "JAX_COORDINATOR_ADDRESS": "here"}, "host:port"),
    ],
)
def test_an_environment_that_says_half(environment, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        processes.join(0.1)


def test_a_program_of_one_process_joins_nobody(monkeypatch):
    processes.join(0.1)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "1")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    processes.join(0.1)


def test_a_launcher_that_jax_knows(monkeypatch):
    """SLURM says who is who; each task then has the device of its own number."""
    slurm = {
        "JOB_ID": "7",
        "STEP_NODELIST": "node[03-04]",
        "NTASKS": "8",
        "PROCID": "5",
        "LOCALID": "1",
    }
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    address, *rest = processes._environment(10)
    assert address.startswith("node03:") and rest == [8, 5, [1]]
