"""Iterations, attacker steps and episodes that meta-SL takes for an accuracy: the theorems' rates.

    python experiments/complexity.py                # writes docs/results/complexity.csv and plots
    python experiments/complexity.py --toy --out /tmp/try.csv

Games with known answers, so every residual is exact, whatever noise the algorithm saw. Tables:

- constants: those of Assumption D.2, by exact second derivatives and PL ratios at random points;
  L = L11 + L12 L21 / mu, kappa_A = 1 / L22, kappa_D = 1 / L, or 1 / L11 where mu has no bound.
- outer: N_D against epsilon, Algorithm 2 with exact gradients. Two residuals: the defender's of
  Definition 4.1, and grad V, V(theta) being L_D at the response that maximises L_A in full. N_D is
  the first step below epsilon; slopes over the last decade that all seeds reach.
- tail: gradient ascent on -(1 + theta^2)^(-a/2), whose exponent is (a + 2) / (a + 1).
- sampled: `meta_sl_update` as it is, N_b growing and epsilon falling as N_b^(-1/2).
- inner: N_A against epsilon, exact ascent of the first type's attacker.
- batch: N_b against epsilon; z is grad_theta E_Q L_D at the attackers' last iterates minus grad V.
- danskin: central differences of V against grad_theta L_D with the response held fixed;
  `adaptation fixed` is line 12's response at rest, `full` maximises L_A.
- kinks: the same in finite games, where the best response jumps.

What was found is in docs/results/theory.md.
"""

import time
from pathlib import Path

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress
from tables import write_rows
from theory.danskin import danskin_rows, dialled_matrix, kink_rows
from theory.exact import (
    BELOW,
    BEYOND,
    BOUNDARY,
    INTERIOR,
    LEADER_FOLLOWER,
    MATRIX,
    PROBLEMS,
    constants,
    with_steps,
)
from theory.rates import batch_part, danskin_panel, inner_part, outer_part, sampled_part, tail_part
from theory.settings import Complexity

from metasg_jax.evaluation.plots import log_log
from metasg_jax.evaluation.tables import rich_table
from metasg_jax.programs.device import enable_compilation_cache
from metasg_jax.testing import commitment_game


def shown(value: float) -> str:
    """Three digits."""
    return "–" if not np.isfinite(value) else f"{value:.3g}"


def series(values, digits: str = ".3g") -> str:
    """Numbers with commas between; a dash where there is none."""
    return ", ".join(format(v, digits) if np.isfinite(v) else "–" for v in values)


def main(args: Complexity) -> None:
    """Runs everything, prints the tables, and writes the plots and the numbers."""
    args = args.sized()
    enable_compilation_cache()
    console, begin, cpu = Console(soft_wrap=True), time.perf_counter(), time.process_time()
    with Progress(console=console) as progress:
        task = progress.add_task("constants", total=len(PROBLEMS) + 1)
        found, ready = {}, {}
        for problem in (*PROBLEMS, MATRIX):
            found[problem.name] = constants(
                problem, jax.random.key(args.seed + 5), 2 if args.toy else 200
            )
            ready[problem.name] = with_steps(problem, found[problem.name])
            progress.advance(task)

        def pick(problem, **changes):
            chosen = ready[problem.name]
            return chosen._replace(config=chosen.config.replace(**changes))

        outer, panels = outer_part(args, [pick(p) for p in args.some(PROBLEMS)], found, progress)
        tail, tail_panel = tail_part()
        noisy, slow = pick(LEADER_FOLLOWER, attacker_steps=5), ready[LEADER_FOLLOWER.name].config
        slow = pick(LEADER_FOLLOWER, attacker_steps=5, defender_lr=slow.defender_lr / 50)
        cases = [
            (problem, outer, scale, 1)
            for problem, scale in ((noisy, 0.6), (pick(INTERIOR, attacker_steps=5), 0.12))
            for outer in ("debiased", "debiased_exact", "fomaml")
        ]
        slow = slow._replace(name="leader-follower, kappa_D / 50")
        cases.append((slow, "debiased", 0.6, 10))
        sampled, sampled_panels = sampled_part(args, args.some(cases), progress)
        inner, inner_panels = inner_part(
            args,
            args.some(
                [(pick(LEADER_FOLLOWER), True), (pick(BELOW), True), (pick(BEYOND), True),
                 (pick(BOUNDARY), False), (pick(MATRIX), False)]
            ),
            progress,
        )  # fmt: skip
        plain = pick(LEADER_FOLLOWER, adapt_steps=0)._replace(name="leader-follower, no adaptation")
        wide = pick(LEADER_FOLLOWER, adapt_lr=0.3)._replace(name="leader-follower, eta = 0.3")
        batch, batch_panel = batch_part(args, args.some([plain, wide, pick(MATRIX)]), progress)
        dials = np.array([0.0, 0.05, 0.1, 0.2, 0.4])
        danskin = danskin_rows(dials[:2] if args.toy else dials, (0.0,) if args.toy else (0.0, 0.1))
        kinks = kink_rows(
            {f"matrix, dial {d:g}": dialled_matrix(d) for d in (0.0, 0.1, 0.2, 0.4)}
            | {"commitment": commitment_game()}
        )
    seconds = time.perf_counter() - begin, time.process_time() - cpu
    stem = args.out.with_suffix("")
    log_log([*panels, tail_panel, *sampled_panels], Path(f"{stem}-outer.png"))
    log_log([*inner_panels, batch_panel, danskin_panel(danskin, kinks)], Path(f"{stem}-inner.png"))
    tables = dict(
        constants=[dict(problem=n, **c._asdict(), L=c.L) for n, c in found.items()],
        outer=outer, tail=tail, sampled=sampled, inner=inner, batch=batch, danskin=danskin,
        kinks=kinks,
    )  # fmt: skip
    write_rows(args.out, tables)
    for name, (header, body) in formatted(tables).items():
        console.print(rich_table(name, header, body, numbers=False))
    spent = f"{seconds[0]:.0f} s, {seconds[1]:.0f} s of processor time"
    console.print(f"{spent}; written to {args.out}, plots beside it")


def formatted(tables: dict[str, list[dict]]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Header and rows of each table: columns' names, and where their cells come from."""
    branches = {"debiased_exact": "debiased", "fomaml": "fomaml"}

    def numbers(*names):
        return [(name, lambda r, n=name: shown(r[n])) for name in names]

    def text(name, key):
        return name, lambda r: str(r[key]).replace("nan", "–")

    def one(name, key):
        return name, lambda r: shown(r[key])

    def many(name, key, digits=".3g"):
        return name, lambda r: series(r[key], digits)

    columns = {
        "constants": [text("game", "problem"), *numbers("mu", "L11", "L12", "L21", "L22", "L")],
        "outer": [
            text("game", "problem"),
            ("branch", lambda r: branches[r["outer"]]),
            *(text(n, n) for n in ("residual", "slope")),
            one("least eps that all reach", "reached"),
            one("N_D there", "steps"),
            one("residual at the end", "end"),
            ("V at the end", lambda r: f"{r['value']:.4f}"),
            one("kappa_D", "kappa_D"),
        ],
        "tail": [one("a", "a"), one("slope", "slope"), one("known", "known")],
        "sampled": [
            text("game", "problem"),
            text("update", "outer"),
            many("eps", "epsilons", ".2g"),
            many("N_D (median)", "counts"),
            many("runs that reach eps", "reached", ".0%"),
            text("slope of N_D", "slope"),
            many("rms of grad V, second half", "stationary", ".2g"),
            text("its power of N_b", "power"),
            many("V at the end", "value"),
        ],
        "inner": [
            text("game", "problem"),
            text("N_A against", "against"),
            text("slope", "slope"),
            ("1 / log(1 / rho)", lambda r: r["known"] or "–"),
            one("z in the end", "last_z"),
        ],
        "batch": [
            text("game", "problem"),
            many("mean of z at each N_b", "errors"),
            one("in the limit", "floor"),
            text("slope: z <= eps", "slope"),
            text("slope: z <= C eps^2", "squared"),
        ],
        "danskin": [
            *(one(n, n) for n in ("eta", "dial")),
            text("response", "response"),
            one("error", "error"),
            one("known", "analytic"),
            one("gradient of V", "gradient"),
        ],
        "kinks": [
            text("game", "game"),
            one("jump at P(first row)", "kink"),
            one("error below", "below"),
            one("error above", "above"),
            one("error at", "at"),
            one("jump of V", "jump"),
        ],
    }
    return {
        name: ([n for n, _ in each], [[c(r) for _, c in each] for r in tables[name]])
        for name, each in columns.items()
    }


if __name__ == "__main__":
    main(tyro.cli(Complexity, description=__doc__))
