"""Preparing through TFDS: hosts first, then TensorFlow, and never in this process."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from metasg_jax.data import prepare
from metasg_jax.errors import DataError


class Runs:
    """Stands in for subprocess.run: keeps the commands, answers as told."""

    def __init__(self, returncode=0, stdout="", stderr=""):
        self.commands = []
        self.answer = SimpleNamespace(returncode=returncode, stdout=stdout, stderr=stderr)

    def __call__(self, command, **kwargs):
        self.commands.append(command)
        return self.answer


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_hosts_are_those_that_tfds_registers(name):
    urls = prepare.download_urls(name)
    assert urls
    assert all(url.startswith("http") for url in urls)


def test_unreachable_host_is_noticed_before_anything_is_installed(tmp_path, monkeypatch):
    runs = Runs()
    monkeypatch.setattr(subprocess, "run", runs)
    monkeypatch.setattr(prepare, "answers", lambda url: False)
    with pytest.raises(DataError, match=r"cifar10, can't be reached.*SOURCE=mirror"):
        prepare.prepare("cifar10", tmp_path, say=pytest.fail)
    assert not runs.commands
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("status", "reached"), [(200, True), (302, True), (405, True), (403, False), (503, False)]
)
def test_a_proxy_that_refuses_is_not_an_answer(monkeypatch, status, reached):
    import requests

    monkeypatch.setattr(requests, "head", lambda url, **_: SimpleNamespace(status_code=status))
    assert prepare.answers("http://example.invalid/file") is reached


def test_no_answer(monkeypatch):
    import requests

    def fail(url, **kwargs):
        raise requests.ConnectTimeout

    monkeypatch.setattr(requests, "head", fail)
    assert not prepare.answers("http://example.invalid/file")


def test_requirements_are_those_of_the_extra():
    names = [requirement.split(">")[0].replace("_", "-") for requirement in prepare.requirements()]
    assert sorted(names)[0] == "importlib-resources"
    assert sorted(names)[1] in ("tensorflow-cpu", "tensorflow")
    assert len(names) == 2


def test_nothing_is_installed_twice(monkeypatch):
    runs = Runs()
    monkeypatch.setattr(subprocess, "run", runs)
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda module: object())
    prepare.ensure_tensorflow(say=pytest.fail)
    assert not runs.commands


def test_installs_the_extra_and_says_so(monkeypatch):
    runs, said = Runs(), []
    monkeypatch.setattr(subprocess, "run", runs)
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda module: None)
    prepare.ensure_tensorflow(said.append)
    assert runs.commands[0][:4] == [sys.executable, "-m", "pip", "install"]
    assert runs.commands[0][-2:] == prepare.requirements()
    assert "tensorflow" in said[0]


def test_failed_installation_names_the_extra(monkeypatch):
    monkeypatch.setattr(subprocess, "run", Runs(1, stderr="noise\nERROR: no such thing\n"))
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda module: None)
    with pytest.raises(DataError, match=r"no such thing.*metasg-jax\[prepare\].*SOURCE=mirror"):
        prepare.ensure_tensorflow(lambda sentence: None)


def test_a_package_that_is_not_installed_names_the_extra(monkeypatch):
    def missing(name):
        raise prepare.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(prepare.importlib.metadata, "requires", missing)
    with pytest.raises(DataError, match=r"metasg-jax\[prepare\]"):
        prepare.requirements()


@pytest.fixture
def ready(monkeypatch):
    monkeypatch.setattr(prepare, "require_hosts", lambda name: None)
    monkeypatch.setattr(prepare, "ensure_tensorflow", lambda say: None)


def test_failure_of_tfds_is_one_sentence(tmp_path, monkeypatch, ready):
    monkeypatch.setattr(subprocess, "run", Runs(1, stdout="noise\nOSError: disk full\n"))
    with pytest.raises(DataError, match=r"could not prepare mnist .OSError: disk full.*SOURCE=mi"):
        prepare.prepare("mnist", tmp_path, lambda sentence: None)


def test_download_directories_are_not_shared(tmp_path, monkeypatch, ready):
    runs = Runs()
    monkeypatch.setattr(subprocess, "run", runs)
    for name in ("mnist", "fashion_mnist"):
        prepare.prepare(name, tmp_path, lambda sentence: None)
    assert len({command[-1] for command in runs.commands}) == 2


def test_what_an_interrupted_run_left_is_removed(tmp_path, monkeypatch, ready):
    (tmp_path / "mnist/3.0.1").mkdir(parents=True)
    (tmp_path / "cifar10").mkdir()
    monkeypatch.setattr(subprocess, "run", Runs())
    prepare.prepare("mnist", tmp_path, lambda sentence: None)
    assert [p.name for p in tmp_path.iterdir()] == ["cifar10"]


def test_the_child_reports_in_one_line(monkeypatch, capsys):
    import tensorflow_datasets as tfds

    def fail(*args, **kwargs):
        raise OSError("first line\nsecond line")

    monkeypatch.setattr(tfds, "builder", fail)
    with pytest.raises(SystemExit):
        prepare.build("mnist", "there", "downloads")
    assert capsys.readouterr().out.splitlines()[-1] == "OSError: first line"
