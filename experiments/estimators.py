"""What the gradient estimators are worth: their bias and their variance per FL round.

    python experiments/estimators.py                    # writes docs/results/estimators.csv
    python experiments/estimators.py --toy --out /tmp/try.csv

Part 1, on games where everything can be enumerated: meta gradients of both objectives (adaptation
by a sampled gradient, and by the exact one) against the exact derivatives. Part 2: estimates of
grad J from episodes, on games with known gradients and on the FL game. `error / SE` is the distance
of the mean from the exact gradient in standard errors, about 1 for an unbiased estimator; `rounds
for SNR 1` how many rounds make an estimate whose noise is as large as the gradient (trace of the
covariance times the rounds of an estimate over the gradient's squared norm). The FL game's gradient
is not known: its stand-in is the mean of the two unbiased estimators of least variance, by their
precision. What was found is in docs/results/theory.md.
"""

import time

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress
from tables import write_rows
from theory.fl_gradients import UNBIASED, fl_rows
from theory.meta_gradients import batch_rows, meta_rows
from theory.policy_gradients import game_rows, variance_rows
from theory.settings import Estimators

from metasg_jax.evaluation.tables import rich_table
from metasg_jax.programs.device import enable_compilation_cache

LABELS = {
    "debiased": "debiased (sampled)",
    "exact path": "debiased (exact), exact adaptation",
    "debiased_exact": "debiased (exact), sampled adaptation",
    "printed": "(C4) with (C5) as printed",
    "fomaml": "fomaml",
    "reptile": "reptile, per unit of step size",
}


NAMES = ("fomaml", "reptile", "debiased_exact", "debiased", "printed")


def number(value: float) -> str:
    """Three digits, plain where it reads well."""
    if not np.isfinite(value):
        return "–"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def fl_table(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the FL game's results."""
    header = ["std", "type", "estimator", "rounds for SNR 1", "seconds for SNR 1", 
              "gradient's norm", "its SE", "difference / SE", "cosine", "estimates"]  # fmt: skip
    return header, [
        [str(r["std"]), r["type"], r["estimator"], number(r["rounds"]),
         number(r["rounds"] / r["speed"]), number(r["norm"]), number(r["noise"]),
         f"{r['sigmas']:.1f}", f"{r['cosine']:.3f}", str(r["count"])]
        for r in rows
    ]  # fmt: skip


def main(args: Estimators) -> None:
    """Draws everything, prints the tables and writes the numbers."""
    args = args.sized()
    enable_compilation_cache()
    console, begin, cpu = Console(soft_wrap=True), time.perf_counter(), time.process_time()
    with Progress(console=console) as progress:
        meta = meta_rows(args, progress)
        batch = batch_rows(args, progress)
        games = game_rows(args, progress)
        variance = variance_rows(args, progress)
        half = time.perf_counter()
        fl, rounds = fl_rows(args, progress) if args.fl_draws else ([], 0)
    end, cpu = time.perf_counter(), time.process_time() - cpu
    tables = {
        "meta": (
            ["game", "l", "N_b", "estimator", "objective", "estimate", "SE", "exact", "error / SE",
             "relative bias", "cosine", "draws"],
            [
                [r["game"], str(r["steps"]), str(r["batch"]), LABELS[r["estimator"]],
                 r["objective"], f"{r['along']:.5f}", f"{r['error']:.5f}", f"{r['exact']:.5f}",
                 f"{r['sigmas']:.1f}", f"{r['bias']:.1%}", f"{r['cosine']:.4f}", f"{r['count']:,}"]
                for r in meta
            ],
        ),
        "batch": (
            ["game", "eta", "N_b", "estimate", "SE", "exact", "error / SE", "relative bias",
             "variance: fomaml", "debiased (exact)", "debiased (sampled)", "draws"],
            [
                [r["game"], f"{r['eta']:g}", str(r["batch"]), f"{r['along']:.5f}",
                 f"{r['error']:.5f}", f"{r['exact']:.5f}", f"{r['sigmas']:.1f}", f"{r['bias']:.1%}",
                 number(r["trace_fomaml"]), number(r["trace"]), number(r["trace_debiased"]),
                 f"{r['count']:,}"]
                for r in batch
            ],
        ),
        "games": (
            ["game", "gradient of", "estimator", "rounds for SNR 1", "error / SE", "relative bias"],
            [
                [r["game"], r["side"], r["estimator"], number(r["rounds"]), f"{r['sigmas']:.1f}",
                 f"{r['bias']:.1%}"]
                for r in games
            ],
        ),
        "variance": (
            ["game", "eta", *(LABELS[n] for n in NAMES)],
            [
                [r["game"], str(r["eta"]), *(number(r[n]) for n in NAMES)]
                for r in variance
            ],
        ),
    }  # fmt: skip
    if fl:
        tables["fl"] = fl_table([r for r in fl if r["type"] == "all"])
        few = ("score, return_to_go, leave_one_out", *UNBIASED, "pathwise, window")
        tables["fl_types"] = fl_table(
            [r for r in fl if r["type"] != "all" and r["estimator"].startswith(few)]
        )
    for name, (header, rows) in tables.items():
        console.print(rich_table(name, header, rows))
    numbers = dict(meta=meta, batch=batch, games=games, variance=variance, fl=fl)
    write_rows(args.out, numbers, lambda v: f"{v:.8g}" if isinstance(v, float) else str(v))
    console.print(
        f"{half - begin:.0f} s for games with known answers, {end - half:.0f} s for the FL game, "
        f"{rounds:,} rounds; {cpu:.0f} s of processor time; written to {args.out}"
    )


if __name__ == "__main__":
    main(tyro.cli(Estimators, description=__doc__))
