"""The experiment on solution concepts: exact values by its own solver."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(out, *args):
    command = [sys.executable, "experiments/equilibria.py", "--out", str(out), *args]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with out.open() as file:
        return {row["concept"]: row["exact value"] for row in csv.DictReader(file)}


@pytest.mark.slow
def test_two_types(tmp_path):
    table = run(tmp_path / "a.csv", "--games", "two_types", "--seeds", "2", "--steps", "4")
    values = {name: float(value) for name, value in table.items() if value}
    assert values["best fixed action"] == values["Bayesian Stackelberg (1)"] == 0.3
    assert values["meta-Stackelberg (2), debiased"] == 0.608
    assert values["perfect Bayesian (PBE)"] == 0.65


@pytest.mark.slow
def test_matrix_games(tmp_path):
    table = run(tmp_path / "a.csv", "--games", "commitment", "--seeds", "2", "--steps", "4")
    assert table["Bayesian Stackelberg (1)"] == "0.875"
    assert table["perfect Bayesian (PBE)"] == "0.500"
    assert table["best fixed action"] == "0.750"
