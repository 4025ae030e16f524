"""The page of solution concepts: exact values by its own solver, and what stays of a page."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FL_TOY = [
    "--fl.types", "none", "rl:max_steps=1@0.2", "--fl.rounds", "2", "--fl.meta-steps", "1",
    "--fl.answer-steps", "1", "--fl.grid", "2", "1", "1", "--fl.episodes", "2", "--fl.seeds", "1",
]  # fmt: skip


def run(out, *args):
    command = [sys.executable, "experiments/equilibria.py", "--out", str(out), *args]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    rows = [line.strip("|").split("|") for line in out.read_text().splitlines() if line[:1] == "|"]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows}


@pytest.mark.slow
def test_two_types(tmp_path):
    out = tmp_path / "page.md"
    out.write_text("old tables\n\n## Reading\n\nby hand\n")
    table = run(out, "--games", "two_types", "--seeds", "2", "--steps", "4")
    values = {name: float(cells[0]) for name, cells in table.items() if cells[0][:2] == "0."}
    assert values["best fixed action"] == values["Bayesian Stackelberg (1)"] == 0.3
    assert values["meta-Stackelberg (2), debiased"] == 0.608
    assert values["perfect Bayesian (PBE)"] == 0.65
    assert out.read_text().count("## Reading") == 1 and "by hand" in out.read_text()
    assert "old tables" not in out.read_text()


@pytest.mark.slow
def test_matrix_games(tmp_path):
    table = run(tmp_path / "page.md", "--games", "commitment", "--seeds", "2", "--steps", "4")
    assert table["Bayesian Stackelberg (1)"][0] == "0.875"
    assert table["perfect Bayesian (PBE)"][0] == "0.500"
    assert table["best fixed action"][0] == "0.750"


@pytest.mark.slow
def test_the_fl_game_at_toy_size(tmp_path):
    table = run(tmp_path / "page.md", "--games", "fl", *FL_TOY)
    assert "meta-Stackelberg (2), adapted" in table and "best fixed action" in table
