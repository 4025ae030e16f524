"""A part of the fault suite, another one for each FAULTS_SEED; `make test-faults` plays all of it."""

import os

import numpy as np
import pytest

from tests.faults import injections
from tests.faults.run import play, table
from tests.faults.worlds import Room

SEED = int(os.environ.get("FAULTS_SEED", "0"))
# of each group that takes a while, as many as fit into a minute
PARTS = {"checkpoints and metrics of a run": 12, "runs of a matrix": 6}


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return Room(tmp_path_factory.mktemp("faults"))


def part_of(everything):
    """Some of the dear ones, drawn by the seed, and all others."""
    rng, groups = np.random.default_rng(SEED), {}
    for each in everything:
        groups.setdefault(each.group, []).append(each)
    for group, each in groups.items():
        count = min(PARTS.get(group, len(each)), len(each))
        for place in sorted(rng.choice(len(each), count, replace=False)):
            yield each[place]


@pytest.mark.parametrize("group", ["damaged_files", "foreign_files", "bad_settings"])
# Orbax leaves tasks behind that failed on a damaged file
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_no_fault_is_silent_and_no_result_is_lost(room, group):
    counts, wrong = play(part_of(getattr(injections, group)(room, SEED)))
    assert not wrong, f"seed {SEED}\n{table(counts)}" + "\n".join(wrong)


def test_the_table_counts_by_group():
    def injection(group, outcome):
        return injections.Injection(group, "a name", lambda: outcome)

    counts, wrong = play([injection("a", "handled"), injection("b", "silent: so"),
                          injection("b", "handled")])  # fmt: skip
    assert wrong == ["b, a name: silent: so"]
    assert table(counts).splitlines() == [
        "| what is injected | times | handled | silent |", "| --- | ---: | ---: | ---: |",
        "| a | 1 | 1 | 0 |", "| b | 2 | 1 | 1 |", "| all | 3 | 2 | 1 |",
    ]  # fmt: skip
