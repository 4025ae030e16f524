"""The experiments on estimators and complexity: what they compute, on cases with known answers."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.evaluation.plots import Line, Panel, log_log
from metasg_jax.evaluation.statistics import log_log_slope, t_interval
from metasg_jax.testing import commitment_game

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

from theory.danskin import danskin_rows, kink_rows
from theory.exact import LEADER_FOLLOWER, oracle
from theory.meta_gradients import meta_estimates, settings, state_of
from theory.moments import CHUNK, compare, sampler
from theory.runs import ascent, contraction, exact_run, first_below, tail_run


def test_a_slope_is_the_exponent():
    x = np.geomspace(1, 100, 7)
    assert log_log_slope(x, 3 * x**1.7) == pytest.approx(1.7)
    y = np.where(x > 50, np.nan, x**-0.5)
    assert log_log_slope(x, y) == pytest.approx(-0.5)
    assert np.isnan(log_log_slope(x, np.full(7, np.nan)))


def test_the_interval_covers_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(2.0, 1.0, (2000, 5))
    covered = np.mean([abs(m - 2) <= h for m, h in (t_interval(d) for d in draws)])
    assert covered == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 2000))
    assert t_interval(np.array([1.0, np.nan])) == (1.0, pytest.approx(np.nan, nan_ok=True))


def test_a_plot_leaves_out_what_has_no_logarithm(tmp_path):
    lines = [Line("a", np.arange(1, 4), np.array([[1.0, 0.0, np.nan], [2.0, 1.0, 1.0]]))]
    log_log([Panel("p", "x", "y", lines), Panel("empty", "x", "y", [])], tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_first_step_below_a_level():
    values = np.array([[3.0, 1.0, 2.0, 0.5], [3.0, 3.0, 3.0, 3.0]])
    first = first_below(values, np.array([3.0, 1.0, 0.1]))
    np.testing.assert_array_equal(first, [[1, 2, np.nan], [1, np.nan, np.nan]])


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_a_flat_tail_has_the_known_exponent(power):
    epsilons = np.geomspace(3e-3, 3e-4, 8)
    slope = log_log_slope(1 / epsilons, tail_run(power, epsilons))
    assert slope == pytest.approx((power + 2) / (power + 1), abs=0.03)


def test_best_responses_contract_as_the_lemma_says():
    """N_A against log 1/epsilon on the leader-follower game: slope 1 / log(1 / rho)."""
    problem = LEADER_FOLLOWER
    problem = problem._replace(config=problem.config.replace(attacker_lr=0.5))
    theta = jnp.array([0.3, -0.4, 0.0, 0.0])
    found, phi = jax.jit(lambda t: ascent(problem, t, 40))(theta)
    rho = contraction(problem, oracle(problem), theta, phi)
    found = np.asarray(found)[:, 0]
    steps = np.arange(20, 30)
    assert np.polyfit(steps, np.log(found[20:30]), 1)[0] == pytest.approx(np.log(rho), rel=0.01)


def test_exact_runs_reach_definition_4_1_and_not_more():
    """Line 12 holds the adaptation fixed: grad V stays off by a known part (errata 10)."""
    problem = LEADER_FOLLOWER
    problem = problem._replace(config=problem.config.replace(attacker_lr=0.8, defender_lr=0.9))
    theta = jnp.array([1.0, -1.0, 0.0, 0.0])
    run = jax.jit(lambda t: exact_run(problem, "debiased_exact", t, 40))
    defender, attacker, value, _ = np.asarray(run(theta))[-1]
    assert defender < 1e-5 and attacker < 1e-5
    assert 1e-4 < value < 1e-2


@pytest.mark.slow
def test_danskin_holds_at_dial_0_and_fails_by_the_known_error():
    for row in danskin_rows(np.array([0.0, 0.2]), etas=(0.0,)):
        assert row["error"] == pytest.approx(row["analytic"], abs=2e-6)
        assert (row["analytic"] > 0.01) == (row["dial"] > 0)


def test_danskin_fails_in_a_finite_game_where_the_response_jumps_alone():
    (row,) = kink_rows({"commitment": commitment_game()})
    assert row["kink"] == pytest.approx(0.5)
    assert row["below"] < 1e-4 and row["above"] < 1e-4
    assert row["jump"] == pytest.approx(0.5, abs=1e-3) and row["at"] > 10


def test_a_sampler_finds_mean_and_variance():
    def estimate(key, argument):
        return {"x": argument + jnp.array([1.0, 3.0]) * jax.random.normal(key, (2,))}

    draw = sampler(estimate, chunk=1000)
    found = draw(jax.random.key(0), 8000, argument=jnp.array([2.0, 0.0]))["x"]
    assert found.count == 8000
    np.testing.assert_allclose(found.variance, [1.0, 9.0], rtol=0.08)
    row = compare(found, np.array([2.0, 0.0]))
    assert row["sigmas"] < 3 and row["trace"] == pytest.approx(10, rel=0.08)
    stopped = draw(jax.random.key(0), 80000, precision=0.05, argument=jnp.array([2.0, 0.0]))["x"]
    assert stopped.count < 5000


def test_meta_gradients_on_the_bandit():
    """The learner's own updates, debiased and printed, have the errata's means."""
    setting = settings()[0]
    state = state_of(setting, setting.config)

    def estimate(key, _):
        return meta_estimates(key, state, setting.game, setting.config)

    found = sampler(estimate)(jax.random.key(0), CHUNK)
    for name, value in (("debiased", 0.188105), ("printed", 0.173160)):
        assert abs(found[name].mean[0] - value) < 4 * found[name].error
    difference = found["printed minus debiased"]
    assert abs(difference.mean[0] + 0.014945) < 4 * difference.error
    assert difference.error < 0.003


@pytest.mark.slow
@pytest.mark.parametrize("script", ["estimators", "complexity"])
def test_a_toy_run_writes_its_numbers(script, tmp_path):
    out = tmp_path / f"{script}.csv"
    command = [sys.executable, f"experiments/{script}.py", "--toy", "--out", str(out)]
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    root = Path(__file__).parents[1]
    subprocess.run(command, check=True, capture_output=True, cwd=root, env=environment)
    assert out.read_text().startswith("table,row,quantity,value")
