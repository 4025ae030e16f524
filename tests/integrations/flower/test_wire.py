"""A SuperLink and SuperNodes as processes of this machine, most of them hostile."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import tomli_w
from examples.flower import warm_clients
from examples.flower.processes import federation, fork_clients, require_free, submit

from metasg_jax.errors import ConfigError

APP = Path(__file__).parent / "wire_app"
ODD = {
    "nan": "not finite",
    "other shapes": "bias has shape (7,), not (3,)",
    "strings": "not real numbers",
    "too much": "bytes; ",
    "nothing": "0 ArrayRecords",
    "raises": "error ",
    "drops out": "",  # no answer, or an error that its SuperNode sends
    "stalls": "no answer in time",
}
HONEST = 3


def free_port(count):
    for first in range(21_000, 40_000, 100):
        try:
            require_free(range(first, first + count))
        except ConfigError:
            continue
        return first
    raise AssertionError("no ports")


def test_a_port_in_use_is_named_before_anything_starts(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=rf"port {port} of 127\.0\.0\.1 is in use"),
            federation(tmp_path / "home", port - 1, ["partition-id=0"]),
        ):
            pass
    assert not (tmp_path / "home").exists()
    with pytest.raises(ConfigError, match="port 80: from 1024"):
        require_free([80])


def test_a_client_is_forked_from_a_process_with_its_imports(tmp_path):
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    process = fork_clients(home, ["json"])
    try:
        subprocess.run([home / "bin" / warm_clients.COMMAND, "--help"], timeout=30, check=True)
        log, until = home / "clients.log", time.monotonic() + 30
        while "Run a Flower ClientApp" not in log.read_text() and time.monotonic() < until:
            time.sleep(0.1)
        assert "usage: flwr-clientapp" in log.read_text()
        assert process.poll() is None  # it goes on with the next
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)
    with pytest.raises(RuntimeError, match=r"clients can't be started: see .*clients\.log"):
        fork_clients(home, ["no_such_module"])


@pytest.mark.slow
def test_hostile_nodes_are_counted_and_named_and_the_model_moves_on(tmp_path):
    configs = [f"partition-id={i}" for i in range(HONEST)]
    configs += [f'partition-id={HONEST + i} odd="{odd}"' for i, odd in enumerate(ODD)]
    out, rounds = tmp_path / "result.json", 2
    run = {"rounds": rounds, "nodes": len(configs), "timeout": 90.0, "out": str(out)}
    (tmp_path / "run.toml").write_text(tomli_w.dumps(run))
    with federation(tmp_path / "home", free_port(len(configs) + 1), configs) as link:
        submit(APP, tmp_path / "home", tmp_path / "run.toml")
        until = time.monotonic() + 600
        while not out.is_file() and time.monotonic() < until:
            assert link.poll() is None
            time.sleep(0.5)
    found = json.loads(out.read_text())
    reasons = [entry["reason"] for entry in found["tally"].values() if entry["reason"]]
    assert len(reasons) == len(ODD)
    for odd, said in ODD.items():
        assert any(said in reason for reason in reasons), (odd, reasons)
    assert all(r["clients-asked"] == len(configs) for r in found["rounds"])
    assert all(0 < b < 0.1 * rounds + 0.05 for b in found["bias"])
    print(found["rounds"], round(found["megabytes"]), "MB")
    assert found["megabytes"] < 1500
