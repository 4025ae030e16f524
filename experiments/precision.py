"""What lower precision in local training costs: accuracy against float32, seed by seed.

    python experiments/precision.py                       # writes docs/results/precision.csv
    python experiments/precision.py --rounds 50 --seeds 1 --out /tmp/try.csv

Setting: 100 clients, 10 sampled, one local step of batch 128, learning rate 0.05, q = 0.5, 100 root
images, no post-training defence, MLP 784-128-10 on MNIST. Accuracy on all test images; differences
are paired by seed, mean ± standard error.
"""

import csv
import dataclasses
import time
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from metasg_jax.config import FLConfig, GameConfig
from metasg_jax.data import load
from metasg_jax.evaluation.metrics import measure_deployed
from metasg_jax.evaluation.statistics import mean_se
from metasg_jax.evaluation.tables import rich_table
from metasg_jax.fl.simulate import simulate, start
from metasg_jax.game.make import make_game, make_rule
from metasg_jax.post_defenses import undefended
from metasg_jax.programs.device import enable_compilation_cache

_measure = jax.jit(measure_deployed, static_argnums=0)


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
    out: Path = Path("docs/results/precision.csv")
    """Where the table goes."""


def cell(args: Precision, dataset, rule_name: str, attack: str, seed: int, precision: str) -> float:
    """Accuracy after the last round."""
    fl = FLConfig(batch_size=128, local_lr=0.05, horizon=args.rounds, precision=precision)
    config = GameConfig(
        dataset="mnist", hidden=(128,), level=0.5, num_root=100, types=(attack,),
        post_defense="none", seed=seed,
    )  # fmt: skip
    game = make_game(config, fl, dataset)
    rule = make_rule(rule_name, fl.num_sampled, config.assumed_share)
    xi = game.prior[0]
    colluders = game.prior.colluders(xi)
    key_model, key_rounds = jax.random.split(jax.random.key(seed))
    state = start(key_model, game.model, fl, rule, colluders)
    state = simulate(
        key_rounds, state, game.model, fl, game.data, rule, colluders, num_rounds=args.rounds
    )
    finite = bool(jnp.isfinite(state.w).all())
    deployed = undefended(game.model, game.model.unravel(state.w))
    measured = _measure(game.model, deployed, game.test_x, game.test_y, xi, not finite)
    return float(measured.accuracy)


def main(args: Precision) -> None:
    """Plays every cell at every precision and writes the paired differences."""
    enable_compilation_cache()
    console, dataset, begin = Console(soft_wrap=True), load("mnist"), time.perf_counter()
    plays = [
        (p, attack, rule, seed)
        for attack, rule in args.cells
        for p in ("float32", *args.precisions)
        for seed in range(args.seeds)
    ]
    accuracy = {
        (p, a, r, s): cell(args, dataset, r, a, s, p)
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
    with args.out.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    console.print(f"{time.perf_counter() - begin:.0f} s; written to {args.out}")


if __name__ == "__main__":
    main(tyro.cli(Precision, description=__doc__))
