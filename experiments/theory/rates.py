"""How fast what was run grows as the accuracy rises: rows of tables, and panels of plots."""

import dataclasses

import jax
import numpy as np
from rich.progress import Progress
from theory.exact import oracle, sizes
from theory.runs import (
    ascent,
    contraction,
    exact_runs,
    first_below,
    response_errors,
    response_floor,
    sampled_runs,
    tail_run,
)
from theory.settings import Complexity

from metasg_jax.evaluation.plots import Line, Panel
from metasg_jax.evaluation.statistics import log_log_slope, t_interval


def interval(slopes) -> str:
    """Mean and 95 % interval."""
    mean, half = t_interval(np.asarray(slopes))
    return f"{mean:.2f}" + (f" ± {half:.2f}" if np.isfinite(half) else "")


def guide(start: float, power: float, label: str = "slope") -> Line:
    """A line of a given slope, for the eye."""
    x = np.geomspace(10, 1e3, 5)
    return Line(f"{label} {power:g}", x, start * (x / 10) ** power, dashed=True)


EPSILONS = np.geomspace(1e-1, 1e-5, 33)


def outer_part(args: Complexity, problems, found, progress: Progress):
    """N_D with exact gradients: (rows, panels)."""
    rows, lines = [], []
    task = progress.add_task("N_D, exact gradients", total=2 * len(problems))
    for problem in problems:
        for outer in ("debiased_exact", "fomaml"):
            runs = exact_runs(args, problem, outer)
            progress.advance(task)
            for i, kind in ((0, "Definition 4.1"), (2, "grad V")):
                values = runs[:, :, i]
                counts = first_below(values, EPSILONS)
                whole = np.isfinite(counts).all(axis=0)
                last = EPSILONS[whole].min() if whole.any() else np.nan
                decade = np.less_equal(EPSILONS, 10.01 * last) & whole
                slopes = [log_log_slope(1 / EPSILONS[decade], c[decade]) for c in counts]
                rows.append(
                    dict(
                        problem=problem.name,
                        outer=outer,
                        residual=kind,
                        slope=interval(slopes),
                        reached=last,
                        steps=float(np.median(counts[:, whole][:, -1])) if whole.any() else np.nan,
                        best=float(np.median(values.min(axis=1))),
                        end=float(np.median(values[:, -1])),
                        value=float(np.median(runs[:, -1, 3])),
                        kappa_D=float(problem.config.defender_lr),
                        L=found[problem.name].L,
                        mu=found[problem.name].mu,
                    )
                )
                if outer == "debiased_exact" and kind == "grad V":
                    lines.append(Line(problem.name, 1 / EPSILONS, counts))
    panels = [
        Panel("exact gradients, |grad V| <= eps", "1 / eps", "N_D", [*lines, guide(1, 2)]),
    ]
    return rows, panels


def tail_part(powers=(0.1, 0.5, 2.0)):
    """The flat tail: (rows, panel)."""
    epsilons, rows, lines = np.geomspace(3e-2, 3e-4, 13), [], []
    for power in powers:
        counts = tail_run(power, epsilons)
        lower = epsilons <= 10.01 * epsilons.min()
        slope = log_log_slope(1 / epsilons[lower], counts[lower])
        rows.append(dict(a=power, slope=slope, known=(power + 2) / (power + 1)))
        lines.append(Line(f"a = {power:g}: slope {slope:.2f}", 1 / epsilons, counts))
    title = "a flat tail, V = -(1 + theta^2)^(-a/2)"
    return rows, Panel(title, "1 / eps", "N_D", [*lines, guide(100, 2)])


def sampled_part(args: Complexity, problems, progress: Progress):
    """N_D and the stationary residual with sampled gradients: (rows, panels)."""
    rows, by_batch, by_epsilon = [], [], []
    batches = np.array(args.batches, np.float64)
    task = progress.add_task("sampled gradients", total=len(problems) * len(args.batches))
    for problem, outer, scale, repeat in problems:
        epsilons = scale / np.sqrt(batches)
        longer = dataclasses.replace(args, sampled_steps=repeat * args.sampled_steps)
        stationary, counts, ends = [], [], []
        for batch, epsilon in zip(args.batches, epsilons, strict=True):
            found = sampled_runs(longer, problem, outer, batch)
            values = found[:, :, 2]
            ends.append(float(np.median(found[:, -1, 3])))
            stationary.append(np.sqrt((values[:, values.shape[1] // 2 :] ** 2).mean(axis=1)))
            counts.append(first_below(values, np.array([epsilon]))[:, 0])
            progress.advance(task)
        stationary, counts = np.array(stationary).T, np.array(counts).T
        whole = counts[np.isfinite(counts).all(axis=1)]
        rows.append(
            dict(
                problem=problem.name,
                outer=outer,
                epsilons=[float(e) for e in epsilons],
                counts=[float(c) for c in np.median(counts, axis=0)],
                reached=[float(r) for r in np.isfinite(counts).mean(axis=0)],
                slope=interval([log_log_slope(1 / epsilons, c) for c in whole])
                if 2 * len(whole) > len(counts)
                else "–",
                stationary=[float(s) for s in np.sqrt((stationary**2).mean(axis=0))],
                power=interval([log_log_slope(batches, s) for s in stationary]),
                value=ends,
            )
        )
        label = f"{problem.name}, {outer}"
        by_batch.append(Line(label, batches, stationary))
        by_epsilon.append(Line(label, 1 / epsilons, counts))
    guide = Line("slope -1/2", batches, 0.5 / np.sqrt(batches), dashed=True)
    return rows, [
        Panel("sampled gradients, N_b = c / eps^2", "1 / eps", "N_D", by_epsilon),
        Panel("the whole algorithm's residual", "N_b", "rms |grad V|", [*by_batch, guide]),
    ]


def inner_part(args: Complexity, problems, progress: Progress):
    """N_A against epsilon: (rows, panels)."""
    rows, linear, power = [], [], []
    task = progress.add_task("N_A", total=len(problems))
    epsilons = np.geomspace(1e-1, 1e-5, 25)
    for problem, is_linear in problems:
        o, size = oracle(problem), sizes(problem)[0]
        keys = jax.random.split(jax.random.key(args.seed + 3), args.seeds)
        thetas = problem.spread * jax.vmap(lambda k, n=size: jax.random.normal(k, (n,)))(keys)
        run = jax.jit(jax.vmap(lambda t, p=problem: ascent(p, t, args.steps)))
        found, last = run(thetas)
        found = np.asarray(found, np.float64)
        counts = first_below(found[:, :, 0], epsilons) - 1
        whole = np.isfinite(counts).all(axis=0) & (counts > 0).all(axis=0)
        small = whole & (epsilons <= 1e-2)
        if is_linear:
            slopes = [np.polyfit(np.log(1 / epsilons[small]), c[small], 1)[0] for c in counts] if (
                small.sum() > 1
            ) else []  # fmt: skip
            rates = [contraction(problem, o, t, p) for t, p in zip(thetas, last, strict=True)]
            known = f"{np.mean([1 / np.log(1 / r) for r in rates]):.2f}"
        else:
            slopes = [log_log_slope(1 / epsilons[small], c[small]) for c in counts]
            known = ""
        rows.append(
            dict(
                problem=problem.name,
                against="log 1/eps" if is_linear else "1/eps, log-log",
                slope=interval(slopes),
                known=known,
                last_z=float(np.median(found[:, -1, 1])),
            )
        )
        (linear if is_linear else power).append(Line(problem.name, 1 / epsilons, counts))
        progress.advance(task)
    return rows, [
        Panel("Gaussian attackers, |gradient| <= eps", "1 / eps", "N_A", linear, log_y=False),
        Panel("softmax attackers, |gradient| <= eps", "1 / eps", "N_A", [*power, guide(10, 1)]),
    ]


def batch_part(args: Complexity, problems, progress: Progress):
    """N_b against epsilon: (rows, panel)."""
    rows, lines = [], []
    batches = np.array(args.inner_batches, np.float64)
    task = progress.add_task("N_b", total=len(problems) * len(batches))
    groups = min(8, args.inner_runs // 2)
    for problem in problems:
        errors = []
        for batch in args.inner_batches:
            errors.append(response_errors(args, problem, batch))
            progress.advance(task)
        mean = np.array([e.mean() for e in errors])
        parts = np.array([[g.mean() for g in np.array_split(e, groups)] for e in errors]).T
        kept = batches >= 16  # below, single steps overshoot
        slopes = np.array([log_log_slope(g[kept], batches[kept]) for g in parts])
        floor = response_floor(problem)
        clean = floor < 0.1 * mean[-1]  # else what is fitted is the floor
        rows.append(
            dict(
                problem=problem.name,
                errors=[float(m) for m in mean],
                floor=floor,
                slope=interval(-slopes) if clean else "–",
                squared=interval(-2 * slopes) if clean else "–",
            )
        )
        lines.append(Line(problem.name, 1 / mean, batches))
    guide = np.geomspace(10, 100, 4)
    lines.append(Line("slope 2", guide, 10 * (guide / 10) ** 2, dashed=True))
    return rows, Panel("best responses: E|z| <= eps", "1 / eps", "N_b", lines)


def danskin_panel(danskin: list[dict], kinks: list[dict]) -> Panel:
    """The identity's error against the dial."""
    lines = []
    for eta, response in sorted({(r["eta"], r["response"]) for r in danskin}):
        if eta == 0 and response == "full":
            continue  # without adaptation there is one response
        some = [r for r in danskin if (r["eta"], r["response"]) == (eta, response) and r["dial"]]
        name = f"leader-follower, eta = {eta:g}" + (f", {response}" if eta else "")
        lines.append(
            Line(name, np.array([r["dial"] for r in some]), np.array([r["error"] for r in some]))
        )
    known = [r for r in danskin if r["eta"] == 0 and r["response"] == "full" and r["dial"]]
    x = np.array([r["dial"] for r in known])
    lines.append(Line("known, eta = 0", x, np.array([r["analytic"] for r in known]), dashed=True))
    dialled = [r for r in kinks if r["game"].startswith("matrix") and r["jump"] > 1e-4]
    dials = np.array([float(r["game"].split()[-1]) for r in dialled])
    lines.append(Line("matrix: jump of V", dials, np.array([r["jump"] for r in dialled])))
    return Panel("Danskin's identity off strict competitiveness", "dial", "error", lines)
