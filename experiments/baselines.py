"""Fixed rules on MNIST in the paper's setting: no attack, IPM and a backdoor.

    python experiments/baselines.py                       # writes docs/results/baselines.md
    python experiments/baselines.py --rounds 50 --seeds 1 --out /tmp/try.md

Setting: 100 clients, 10 sampled, one local step of batch 128, learning rate 0.05, q = 0.5, 500
rounds, 100 root images, no post-training defence. The model is an MLP 784-128-10 (the paper's is a
three-layer convolutional network).
"""

import dataclasses
import time
from pathlib import Path

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
from metasg_jax.evaluation.tables import markdown_table, rich_table
from metasg_jax.fl.simulate import simulate, start
from metasg_jax.game.make import make_game, make_rule
from metasg_jax.post_defenses import undefended
from metasg_jax.program import enable_compilation_cache

_measure = jax.jit(measure_deployed, static_argnums=0)


@dataclasses.dataclass(frozen=True)
class Baselines:
    """What is run."""

    dataset: str = "mnist"
    """A registered data set of 28x28 images."""
    rules: tuple[str, ...] = ("mean", "krum", "median", "fltrust")
    """Registered rules."""
    attacks: tuple[str, ...] = ("none", "ipm:scale=2@0.2", "bfl@0.05")
    """Attacker types, as in `metasg pretrain --game.types`."""
    level: float = 0.5
    """Heterogeneity q."""
    rounds: int = 500
    """FL rounds."""
    seeds: int = 3
    """Each with its own partition, model and batches; the same for all cells."""
    out: Path = Path("docs/results/baselines.md")
    """Where the table goes."""


def cell(args: Baselines, dataset, rule_name: str, attack: str, seed: int, precision="float32"):
    """Accuracy and ASR (NaN without a backdoor) after the last round."""
    fl = FLConfig(batch_size=128, local_lr=0.05, horizon=args.rounds, precision=precision)
    config = GameConfig(
        dataset=args.dataset,
        hidden=(128,),
        level=args.level,
        num_root=100,
        types=(attack,),
        post_defense="none",
        seed=seed,
    )
    game = make_game(config, fl, dataset)
    rule = make_rule(rule_name, fl.num_sampled, config.assumed_share)
    xi = game.prior[0]
    squads = game.prior.squads(xi)
    key_model, key_rounds = jax.random.split(jax.random.key(seed))
    state = start(key_model, game.model, fl, rule, squads)
    state = simulate(
        key_rounds, state, game.model, fl, game.data, rule, squads, num_rounds=args.rounds
    )
    finite = bool(jnp.isfinite(state.w).all())
    deployed = undefended(game.model, game.model.unravel(state.w))
    measured = _measure(game.model, deployed, game.test_x, game.test_y, xi, not finite)
    return float(measured.accuracy), float(measured.asr)


def main(args: Baselines) -> None:
    """Runs every rule against every attack and writes the table."""
    enable_compilation_cache()
    console = Console(soft_wrap=True)
    dataset = load(args.dataset)
    cells = [(a, r, s) for a in args.attacks for r in args.rules for s in range(args.seeds)]
    begin = time.perf_counter()
    values = {
        (a, r, s): cell(args, dataset, r, a, s)
        for a, r, s in track(cells, "cells", console=console)
    }
    seconds = time.perf_counter() - begin
    header, rows = ["attack", "rule", "accuracy", "ASR"], []
    for a in args.attacks:
        for r in args.rules:
            mean, se = mean_se(np.array([values[a, r, s] for s in range(args.seeds)]))
            asr = "" if np.isnan(mean[1]) else f"{mean[1]:.3f} ± {se[1]:.3f}"
            rows.append([a, r, f"{mean[0]:.3f} ± {se[0]:.3f}", asr])
    console.print(rich_table("fixed rules", header, rows))
    text = (
        f"# Fixed rules on {args.dataset}\n\n"
        f"100 clients, 10 sampled, one local step of batch 128, learning rate 0.05, q = "
        f"{args.level:g}, {args.rounds} rounds, MLP 784-128-10, 100 root images. Mean ± standard "
        f"error over {args.seeds} seeds (0 to {args.seeds - 1}), each with its own partition, "
        "model and batches, the same for all cells. Accuracy on all 10,000 test images; ASR is the "
        "share of the test images of other classes that the trigger sends to its label. Written "
        f"by `python experiments/baselines.py` in {seconds:.0f} s.\n\n"
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text + markdown_table(header, rows))
    console.print(f"written to {args.out}")


if __name__ == "__main__":
    main(tyro.cli(Baselines, description=__doc__))
