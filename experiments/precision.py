"""What lower precision in local training costs: accuracy against float32, seed by seed.

    python experiments/precision.py                       # writes docs/results/precision.md
    python experiments/precision.py --rounds 50 --seeds 1 --out /tmp/try.md

Setting: that of experiments/baselines.py (100 clients, 10 sampled, one local step of batch 128,
learning rate 0.05, q = 0.5, MLP 784-128-10 on MNIST).
"""

import dataclasses
import time
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro
from baselines import Baselines, cell
from rich.console import Console
from rich.progress import track

from metasg_jax.data import load
from metasg_jax.evaluation.statistics import mean_se
from metasg_jax.evaluation.tables import markdown_table, rich_table
from metasg_jax.program import enable_compilation_cache


@dataclasses.dataclass(frozen=True)
class Precision:
    """What is run."""

    precisions: tuple[Literal["tensorfloat32", "bfloat16"], ...] = ("bfloat16",)
    """Compared with float32; tensorfloat32 is float32 except on NVIDIA GPUs."""
    cells: tuple[tuple[str, str], ...] = (
        ("none", "mean"),
        ("none", "median"),
        ("ipm:scale=2@0.2", "krum"),
    )
    """Pairs of an attacker type and a rule."""
    rounds: int = 500
    """FL rounds."""
    seeds: int = 5
    """Each with its own partition, model and batches, the same for all precisions."""
    out: Path = Path("docs/results/precision.md")
    """Where the table goes."""


def main(args: Precision) -> None:
    """Plays every cell at every precision and writes the paired differences."""
    enable_compilation_cache()
    console, dataset, begin = Console(soft_wrap=True), load("mnist"), time.perf_counter()
    settings = Baselines(rounds=args.rounds)
    plays = [
        (p, attack, rule, seed)
        for attack, rule in args.cells
        for p in ("float32", *args.precisions)
        for seed in range(args.seeds)
    ]
    accuracy = {
        (p, a, r, s): cell(settings, dataset, r, a, s, p)[0]
        for p, a, r, s in track(plays, "cells", console=console)
    }
    header, rows = ["attack", "rule", "precision", "accuracy", "minus float32"], []
    for a, r in args.cells:
        for p in ("float32", *args.precisions):
            values = np.array([accuracy[p, a, r, s] for s in range(args.seeds)])
            plain = np.array([accuracy["float32", a, r, s] for s in range(args.seeds)])
            mean, se = mean_se(values[:, None])
            difference, error = mean_se((values - plain)[:, None])
            lost = "" if p == "float32" else f"{difference[0]:+.4f} ± {error[0]:.4f}"
            rows.append([a, r, p, f"{mean[0]:.4f} ± {se[0]:.4f}", lost])
    console.print(rich_table("precision of local training", header, rows))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(
        "# Precision of local training\n\n"
        "MNIST, 100 clients, 10 sampled, one local step of batch 128, learning rate 0.05, q = "
        f"0.5, {args.rounds} rounds, MLP 784-128-10, on {jax.devices()[0].platform}. Accuracy on "
        f"all 10,000 test images, mean ± standard error over {args.seeds} seeds; differences are "
        f"paired by seed. Written by `python experiments/precision.py` in "
        f"{time.perf_counter() - begin:.0f} s.\n\n" + markdown_table(header, rows)
    )
    console.print(f"written to {args.out}")


if __name__ == "__main__":
    main(tyro.cli(Precision, description=__doc__))
