"""The benchmarks run, compare what they say they compare, and the speed is not lost."""

import json
import math
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks import accelerator, collectives, page, report
from benchmarks.cases import SUITES, cases
from benchmarks.floor import training_flops
from benchmarks.measure import Measurement
from benchmarks.run import Options, main

from metasg_jax.game.make import make_rule
from metasg_jax.models import make_model
from metasg_jax.testing import received


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Runs toy sizes; the worker compiles like this process does."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    if folder := jax.config.jax_compilation_cache_dir:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

    def run(**options):
        written = tmp_path / "performance.csv"
        samples = tmp_path / "samples.json"
        chosen = Options(quick=True, repetitions=2, write=written, json=samples, **options)
        results = {str(case): measured for case, measured in main(chosen)}
        return results, written.read_text(), json.loads(samples.read_text())

    return run


@pytest.mark.slow
def test_runs_compares_and_writes(quick):
    # this interpreter as that of the peers: NumPy is there, the other libraries are not
    only = ("median, n", "krum, n", "rounds", "clients")
    results, written, samples = quick(only=only, peers_python=Path(sys.executable))
    for name in ("median, n = 5, d = 1,000", "krum, n = 5, d = 1,000"):
        measured = results[f"rules: {name}"]
        np.testing.assert_allclose(
            measured["ours"].result, measured["NumPy"].result, rtol=1e-5, atol=1e-6
        )
        assert "ModuleNotFoundError" in measured["ByzFL (torch)"].error
    rounds = results["rounds: MLP, 1 step, median"]
    assert rounds["ours"].samples and rounds["floor"].samples
    assert "ModuleNotFoundError" in rounds["peers"].error
    assert all(len(m.samples) == 2 for m in results["scaling: clients"].values())
    assert "ModuleNotFoundError: No module named" in written and ",N = 20," in written
    assert {row["case"] for row in samples["results"]} == set(results)


def test_without_peers_the_tables_say_so(quick):
    results, written, _ = quick(
        suite=("rules",), only=("rules: median",), peers_python=Path("not/there")
    )
    assert list(results) == ["rules: median, n = 5, d = 1,000"]
    assert "peers: not installed: there is no not/there" in written


@pytest.mark.slow
def test_games_run(quick):
    results, written, _ = quick(
        suite=("game", "scaling"), only=("game", "attacker", "meta-step"), peers=False
    )
    assert len(results) == 3
    assert all(m.samples for measured in results.values() for m in measured.values())
    assert ",horizon x 2,rounds,28" in written and "reported earlier" in written


@pytest.mark.parametrize("suite", SUITES)
def test_case_names_are_unique(suite):
    for part in (cases(suite), cases(suite, quick=True)):
        assert len({str(case) for case in part}) == len(part)
        smaller = {case.name for case in part}
        assert {case.grows_from[0] for case in part if case.grows_from} <= smaller


def test_the_page_is_that_of_its_numbers(tmp_path):
    """And where an aim has none, none is written."""
    numbers = tmp_path / "performance.csv"
    whole = page.SOURCE.read_text()
    numbers.write_text(whole)
    written = page.write(numbers)
    assert written is not None
    assert written.read_text() == page.SOURCE.with_suffix(".md").read_text()
    written.unlink()
    lines = whole.splitlines(keepends=True)
    numbers.write_text("".join(line for line in lines if "resnet18, cold" not in line))
    assert page.write(numbers) is None and not written.exists()


def test_floor_counts_products():
    assert training_flops("mlp", (128,), 320) == 320 * 2 * (2 * 784 * 128 + 3 * 1280)
    # one multiply-add a weight and place
    model = make_model("cnn", (28, 28, 1), 10, (16, 32, 256))
    places = (25 * 16 * 576, 25 * 16 * 32 * 64, 512 * 256, 2560)
    assert model.num_params == 25 * 16 + 25 * 16 * 32 + 512 * 256 + 2560 + 16 + 32 + 256 + 10
    assert training_flops("cnn", (16, 32, 256), 1) == 2 * (2 * places[0] + 3 * sum(places[1:]))


def test_ratios_are_paired():
    ours, peer = Measurement([1.0, 2.0, 4.0]), Measurement([3.0, 6.0, 12.0, 99.0])
    assert peer.ratio_to(ours) == 3.0
    assert math.isnan(Measurement(error="failed").ratio_to(ours))


def test_numbers_have_three_digits():
    values = [0.000123, 0.5, 12.34, 1234.5, math.nan]
    assert [report.number(v) for v in values] == ["0.000123", "0.500", "12.3", "1,234", "n/a"]


def test_median_is_not_a_sort():
    """The rule is tens of times faster than a sort over clients; a noisy machine does not hide it.

    Both are timed in turn; the fastest call of each counts.
    """
    given = received(np.random.default_rng(0).standard_normal((10, 100_000)))
    rule = make_rule("median", 10, 0.2)
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        ours = jax.jit(lambda r: rule(None, (), r)[0]).lower(given).compile()
        by_sort = jax.jit(lambda r: jnp.sort(r.updates, axis=0)[4:6].mean(0)).lower(given).compile()
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    np.testing.assert_allclose(ours(given), by_sort(given), rtol=1e-6)
    fastest = {ours: math.inf, by_sort: math.inf}
    for _ in range(10):
        for compiled in fastest:
            begin = time.perf_counter()
            compiled(given).block_until_ready()
            fastest[compiled] = min(fastest[compiled], time.perf_counter() - begin)
    assert fastest[by_sort] > 3 * fastest[ours]


@pytest.mark.slow
def test_the_accelerator_script_runs_at_toy_size_and_says_so(tmp_path, capsys):
    written = tmp_path / "accelerator.csv"
    made = accelerator.main(accelerator.Options(tables=False, write=written))
    assert len(made) == len(accelerator.PARTS)
    text = written.read_text()
    assert accelerator.TOY in text and accelerator.TOY in capsys.readouterr().out
    assert all(f"accelerator,{table.title}" in text.replace('"', "") for table in made)


def test_a_part_for_which_no_time_is_left_is_named_and_not_run():
    made = accelerator.main(accelerator.Options(tables=False, minutes=-1.0))
    assert [table.columns for table in made] == [["part", "not run"]] * len(accelerator.PARTS)


def test_a_file_of_tables_keeps_what_was_not_measured_again(tmp_path):
    path, table = tmp_path / "a.csv", report.Table("t", ["case", "ours"], [["n = 1", "2"]], ["x"])
    report.keep(path, "first", {"rounds": [table], "rules": [table]})
    report.keep(path, "second", {"rules": [report.Table("t", ["case", "ours"], [["n = 1", "3"]])]})
    rows = [line.split(",") for line in path.read_text().splitlines()]
    assert rows[0] == list(report.FIELDS)
    assert ["rounds", "t", "n = 1", "ours", "2"] in rows and [
        "rounds",
        "t",
        "",
        "note",
        "x",
    ] in rows
    assert [row[3:] for row in rows if row[0] == "rules"] == [["machine", "second"], ["ours", "3"]]


def test_bytes_of_gathers_are_read_from_a_compiled_program():
    """Three trips of a loop, each a gather of f32[8, 2] of which half comes from elsewhere."""
    from metasg_jax.fl.axes import over
    from metasg_jax.programs.mesh import make_mesh, parse_mesh

    def loop(rows):
        def step(rows, _):
            return over("clients", jnp.sin, rows), None

        return jax.lax.scan(step, rows, length=3)[0]

    mesh, whole = make_mesh(parse_mesh("types=4,clients=2")), jax.P()
    mapped = jax.shard_map(loop, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False)
    program = jax.jit(mapped).lower(jnp.ones((8, 2))).compile().as_text()
    assert collectives.received(program) == 3 * 8 * 2 * 4 // 2
