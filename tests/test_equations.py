"""The equation map: complete, and every name in it resolves."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/equations.md").read_text()
NUMBERED = [
    *(f"({n})" for n in (1, 2, 3)), "(B1)", "(PBE)", *(f"(C{n})" for n in range(1, 6)), "(D6)",
    "(D7)-(D11)", "(D12)", "(D13)", "Definition 3.1", "Definition 4.1", "Theorem 4.2",
    "Assumption 4.3", "Assumption 4.4", "Lemma 4.5", "Lemma 4.6", "Theorem 4.7", "Theorem D.1",
    "Assumption D.2", "Lemma D.3", "Lemma D.4", "Assumption D.5", "Lemma D.6", "Theorem D.7",
]  # fmt: skip
LINES = {"Algorithm 1": 15, "Algorithm 2": 26}


def rows():
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and not set(line) <= set("|-") and cells[0] != "paper":
            yield cells


def spans(cell):
    return re.findall(r"`([^`]+)`", cell)


def resolve(name):
    """The object of a dotted name below metasg_jax; modules first, as functions may shadow them."""
    parts = name.split(".")
    for cut in range(len(parts), -1, -1):
        try:
            found = importlib.import_module(".".join(["metasg_jax", *parts[:cut]]))
        except ImportError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


CODE = sorted({name for cells in rows() for name in spans(cells[2]) if "." in name})
TESTS = sorted({name for cells in rows() for name in spans(cells[3])})


@pytest.mark.parametrize("name", CODE)
def test_code_resolves(name):
    assert resolve(name) is not None


@pytest.mark.parametrize("name", TESTS)
def test_tests_resolve(name):
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert function in names if function else any(n.startswith("test_") for n in names)


def test_every_row_has_code_and_test_or_a_reason():
    for paper, _, code, test, _ in rows():
        assert code.startswith("none: ") != bool(test), paper
        assert code.startswith("none: ") or spans(code), paper


@pytest.mark.parametrize("label", NUMBERED)
def test_everything_numbered_has_a_row(label):
    assert any(label in cells[0] for cells in rows())


@pytest.mark.parametrize("algorithm", LINES)
def test_every_line_of_the_algorithms_has_a_row(algorithm):
    covered = []
    for cells in rows():
        match = re.fullmatch(rf"{algorithm}, lines? (\d+)(?:-(\d+))?", cells[0])
        if match:
            first, last = int(match[1]), int(match[2] or match[1])
            covered += range(first, last + 1)
    assert covered == list(range(1, LINES[algorithm] + 1))


def test_the_checker_would_notice():
    with pytest.raises(AttributeError):
        resolve("learning.debiased.meta_gradients")
