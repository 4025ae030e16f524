"""One process at a time in a directory, on file systems with locks and without."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys

import pytest

from metasg_jax.errors import CheckpointError
from metasg_jax.programs import lock

NO_LOCKS = [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK]


def refusing(monkeypatch, number):
    """A file system that answers every request for a lock with an error."""

    def flock(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def refused(folder, message):
    with pytest.raises(CheckpointError, match=message), lock.alone(folder):
        pass


def ended() -> int:
    """The number of a process that is no more."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_the_second_one_is_refused_and_nothing_is_left(tmp_path):
    with lock.alone(tmp_path):
        refused(tmp_path, "another process is writing to it")
        assert os.listdir(tmp_path) == [".lock"]
    assert os.listdir(tmp_path) == []


def test_the_lock_ends_with_what_went_wrong(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), lock.alone(tmp_path):
            raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_the_lock_of_a_killed_process_is_no_lock(tmp_path):
    (tmp_path / ".lock").write_text("")
    with lock.alone(tmp_path):
        pass


@pytest.mark.parametrize("number", NO_LOCKS)
def test_without_locks_a_file_names_its_owner(tmp_path, monkeypatch, number):
    refusing(monkeypatch, number)
    with lock.alone(tmp_path):
        owner = json.loads((tmp_path / ".lock.owner").read_text())
        assert (owner["host"], owner["pid"]) == (socket.gethostname(), os.getpid())
        refused(tmp_path, rf"process {os.getpid()} on .*, since 2")
    assert os.listdir(tmp_path) == []


def test_the_file_of_an_owner_that_has_ended_is_taken_over(tmp_path, monkeypatch):
    refusing(monkeypatch, errno.ENOSYS)
    owner = {"host": socket.gethostname(), "pid": ended(), "since": "2026-01-01"}
    (tmp_path / ".lock.owner").write_text(json.dumps(owner))
    with lock.alone(tmp_path):
        assert json.loads((tmp_path / ".lock.owner").read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "elsewhere", "pid": 1, "since": "x"}'])
def test_an_owner_that_is_not_known_to_have_ended_is_left_alone(tmp_path, monkeypatch, text):
    refusing(monkeypatch, errno.ENOSYS)
    (tmp_path / ".lock.owner").write_text(text)
    refused(tmp_path, r"remove .*\.lock\.owner")
    assert (tmp_path / ".lock.owner").read_text() == text


def test_another_error_is_named_as_what_it_is(tmp_path, monkeypatch):
    refused(tmp_path / "missing", "No such file or directory")
    refusing(monkeypatch, errno.EIO)
    refused(tmp_path, "Input/output error")
