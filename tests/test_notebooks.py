"""Every notebook runs, and its two files agree."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))

every_notebook = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def cells(path):
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def outputs(script):
    book = jupytext.read(script.with_suffix(".ipynb"))
    return [out for cell in book.cells if cell.cell_type == "code" for out in cell.outputs]


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_entrances_lead_to_each(page):
    linked = re.findall(r"\(\S*notebooks/(\w+)\.ipynb\)", (ROOT / page).read_text())
    assert sorted(linked) == [path.stem for path in SCRIPTS]


@every_notebook
def test_it_runs(script, request, tmp_path):
    """As a script, small, with warnings as errors."""
    cache = (
        request.config.cache.mkdir("notebooks") if hasattr(request.config, "cache") else tmp_path
    )
    settings = {
        "METASG_SMOKE": "1",
        "METASG_CACHE_DIR": str(cache),
        "MPLBACKEND": "Agg",
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    # another worker may be writing the entry of JAX's cache that this process reads
    unharmful = "ignore:Error reading persistent compilation cache entry"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", unharmful, str(script)],
        env=os.environ | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.iterdir()) == [] or cache == tmp_path


@every_notebook
def test_both_files_have_the_same_cells(script):
    assert cells(script) == cells(script.with_suffix(".ipynb")), "run `make notebooks`"


@every_notebook
def test_first_cell_links_to_the_notebook_in_colab(script):
    kind, source = cells(script)[0]
    assert kind == "markdown"
    link = (
        r"https://colab\.research\.google\.com/github/[\w.-]+/[\w.-]+/blob/main/(notebooks/\S+)\)"
    )
    assert re.findall(link, source) == [f"notebooks/{script.stem}.ipynb"]


@every_notebook
def test_it_was_executed_without_complaint(script):
    found = outputs(script)
    assert any("image/png" in out.get("data", {}) for out in found), "no plot: execute it"
    complaints = [o for o in found if o.output_type == "error" or o.get("name") == "stderr"]
    assert complaints == []
