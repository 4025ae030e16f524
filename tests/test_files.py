"""Files that are whole or not there, and lines that are read back only as they were written."""

import ast
import os
from pathlib import Path

import numpy as np
import pytest

from metasg_jax import files
from metasg_jax.errors import CheckpointError, ConfigError
from metasg_jax.programs import run_directory

FIELDS = ("name", "value")
ROWS = [{"name": "a, b", "value": "1.5"}, {"name": "–", "value": "nan"}]
METRICS = [
    {"step": step, "return_D": step / 3, "types": {"r": [0.1, float("nan")]}} for step in (1, 2, 3)
]


class Killed(BaseException):
    """What a kill looks like from inside: nothing after it runs."""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    files.write_lines(path, FIELDS, ROWS[:1])
    files.add_lines(path, FIELDS, ROWS[1:])
    return path


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_kill_inside_a_rewrite_leaves_the_old_file(tmp_path, monkeypatch, at):
    path = tmp_path / "result.txt"
    files.write_text(path, "old")

    def killed(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, at, killed)
        with pytest.raises(Killed):
            files.write_text(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["result.txt"]


@pytest.mark.parametrize("where", ["write", "fsync"])
def test_a_full_disk_at_an_added_line_is_named(tmp_path, monkeypatch, where):
    """In metrics and in tables; the message says where, and what was there stays."""
    (tmp_path / "metrics.jsonl").write_text("old\n")
    if where == "write":
        (tmp_path / "metrics.jsonl").unlink()
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    else:

        def full(*args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"metrics.jsonl could not be written: No space left"):
        run_directory.append_metrics(tmp_path, METRICS)
    if where == "fsync":
        assert (tmp_path / "metrics.jsonl").read_text().startswith("old\n")


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.txt"
    files.write_text(path, "old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"result.txt could not be written: No space left"):
        files.write_text(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["result.txt"]


def test_lines_come_back_as_written(table):
    assert files.read_lines(table, FIELDS) == files.read_lines(table, None) == ROWS


def test_any_flipped_byte_of_lines_is_refused(table):
    clean = table.read_bytes()
    for position in range(len(clean)):
        damaged = bytearray(clean)
        damaged[position] ^= 1
        table.write_bytes(bytes(damaged))
        try:
            found = files.read_lines(table, FIELDS)
        except CheckpointError as error:
            assert str(table) in str(error)
        else:  # the end of the last line: it was cut off, or is all there
            assert found == ROWS[: len(found)] and position >= len(clean) - 2
        assert table.read_bytes() == bytes(damaged)


def test_only_a_last_line_that_was_cut_off_is_tolerated(table):
    clean = table.read_bytes()
    second = clean.index(b"\n", clean.index(b"\n") + 1) + 1
    for length in range(second, len(clean) - 1):
        table.write_bytes(clean[:length])
        assert files.read_lines(table, FIELDS) == ROWS[:1]
    for length in range(clean.index(b"\n")):
        table.write_bytes(clean[:length])
        with pytest.raises(CheckpointError, match="header"):
            files.read_lines(table, FIELDS)


def test_lines_of_an_older_version_have_no_checksums(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("name,value\na,1\n")
    assert files.read_lines(path, FIELDS) == [{"name": "a", "value": "1"}]
    path.write_text("name,value\na\n")
    with pytest.raises(CheckpointError, match="line 2"):
        files.read_lines(path, FIELDS)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff{}", b"[" * 100_000, b'{"a": 1, "check": 3}']
)
def test_json_that_can_not_be_read_is_named(tmp_path, content):
    path = tmp_path / "about.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"about\.json"):
        files.read_json(path)
    with pytest.raises(CheckpointError, match=r"about\.json"):
        run_directory.begin(path, {"a": 1}, resume=True)
    assert path.read_bytes() == content


def test_json_comes_back_as_written(tmp_path):
    path = tmp_path / "about.json"
    tree = {"a": [1, 2.5, None], "b": {"c": "–"}}
    files.write_json(path, tree)
    assert files.read_json(path) == tree
    path.write_text(path.read_text().replace("2.5", "2.6"))
    with pytest.raises(CheckpointError, match="not what was written"):
        files.read_json(path)


def damage_of_metrics():
    lines = [run_directory._metrics_line(row).encode() for row in METRICS]
    return {
        "a bad line in the middle": lines[0] + b"{\n" + lines[2],
        "a line that is missing": lines[0] + lines[2],
        "a line twice": lines[0] + lines[1] + lines[1] + lines[2],
        "a last line that is missing": lines[0] + lines[1],
        "another value": lines[0] + lines[1].replace(b"0.666", b"0.667") + lines[2],
        "another key": lines[0] + lines[1].replace(b"step", b"stop") + lines[2],
        "no object": lines[0] + b"3\n" + lines[2],
        "not UTF-8": lines[0] + b"\xff" + lines[1] + lines[2],
        "empty": b"",
        "zeros": b"\0" * 400,
    }


@pytest.mark.parametrize("kind", damage_of_metrics())
def test_damaged_metrics_are_refused_and_kept(tmp_path, kind):
    path = tmp_path / "metrics.jsonl"
    content = damage_of_metrics()[kind]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl is damaged"):
        run_directory.keep_metrics_until(tmp_path, 3)
    assert path.read_bytes() == content


def test_missing_metrics_are_refused_where_lines_were_recorded(tmp_path):
    assert run_directory.keep_metrics_until(tmp_path, 0) == []
    with pytest.raises(CheckpointError, match="0 of the lines of 2 meta-steps"):
        run_directory.keep_metrics_until(tmp_path, 2)


def test_lines_past_the_checkpoint_are_dropped_whole_or_not_at_all(tmp_path, monkeypatch):
    run_directory.append_metrics(tmp_path, METRICS)
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def killed(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            run_directory.keep_metrics_until(tmp_path, 2)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    kept = run_directory.keep_metrics_until(tmp_path, 2)
    np.testing.assert_equal(kept, METRICS[:2])
    np.testing.assert_equal(run_directory.keep_metrics_until(tmp_path, 2), METRICS[:2])


@pytest.mark.parametrize("place", ["/dev/null/x", "/proc/x", "a\0b"])
def test_a_directory_that_can_not_be_written_to_is_named(place):
    with pytest.raises(ConfigError, match="out = "):
        files.require_writable(Path(place))


def test_a_directory_that_can_be_written_to_is_left_as_it_was(tmp_path):
    files.require_writable(tmp_path / "new" / "run")
    assert list((tmp_path / "new" / "run").iterdir()) == []


def calls():
    """(file, line, name, call) of everything in the package that may open a text file."""
    for path in sorted((Path(__file__).parents[1] / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                yield path, node.lineno, name, node


def test_every_text_file_is_utf_8_whatever_the_locale():
    bad = []
    for path, line, name, call in calls():
        known = {keyword.arg for keyword in call.keywords}
        texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
        binary = any(isinstance(t, str) and "b" in t and len(t) <= 3 for t in texts)
        elsewhere = ast.unparse(call.func) in ("os.open", "tarfile.open", "Image.open")
        own = ast.unparse(call.func) in (
            "files.write_text",
            "files.read_text",
            "write_text",
            "read_text",
        )
        opens = name in ("read_text", "write_text", "open", "fdopen") and not elsewhere and not own
        if opens and not binary and "encoding" not in known:
            bad.append(f"{path.name}:{line}")
    assert not bad


def test_nothing_that_is_loaded_can_run_code():
    """No pickle, no eval, no unsafe YAML; NumPy's archives without pickle."""
    bad = []
    for path, line, _, call in calls():
        full = ast.unparse(call.func)
        if full in ("eval", "exec", "yaml.load", "yaml.unsafe_load") or "pickle." in full:
            bad.append(f"{path.name}:{line}")
        if full == "np.load" and "allow_pickle=False" not in ast.unparse(call):
            bad.append(f"{path.name}:{line}")
    assert not bad
