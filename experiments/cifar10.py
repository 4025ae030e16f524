"""CIFAR-10: the shipped defender, or that of a run, beside every control.

``python experiments/cifar10.py --defender v3`` plays ten final worlds, which no other
page uses (from number 310), and writes ``docs/results/cifar10.json``; who is there is not played
again. Static rules choose their help on a selection world. ``--figure`` plays the course over the
rounds of Figure 2(b) of the paper: 5 % of the clients plant a backdoor, 10 % push the model back.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from picture import EVERY, by_rule, course
from trust import best_help, keep_playing, play

from metasg_jax.data import load
from metasg_jax.evaluation.contestants import parse_contestant
from metasg_jax.evaluation.judge import trust_game
from metasg_jax.evaluation.plots.save import save
from metasg_jax.evaluation.tables import markdown_table
from metasg_jax.evaluation.worlds import FINAL, world
from metasg_jax.presets.cpu import get_config
from metasg_jax.programs.device import enable_compilation_cache

OUT, FIRST, WORLDS = Path("docs/results/cifar10.json"), 310, 10
RULES = ("fltrust", "median", "trimmed_mean", "multi_krum")


def main() -> None:
    """Plays what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--defender", nargs="*", default=[], help="names or directories of runs")
    parser.add_argument("--worlds", type=int, default=WORLDS)
    parser.add_argument("--figure", action="store_true")
    parser.add_argument("--table", action="store_true", help="print what was played, in Markdown")
    args = parser.parse_args()
    if args.figure and not args.defender:
        parser.error("--figure: name a run by --defender")
    if args.table:
        print(table(json.loads(OUT.read_text())))
        return
    enable_compilation_cache()
    config = get_config("cifar10")
    dataset = load("cifar10")
    if args.figure:
        draw_figure(config, dataset, args.defender[0])
        return
    keep_playing(OUT, lambda found: studied(config, dataset, args, found))


def table(found: dict) -> str:
    """Mean score, regret, and the score of each type, a contestant a row."""
    header = ["", "score", "regret to the perfect filter", *found["types"]]
    rows = []
    for row in found["rows"]:
        interval = f"{row['regret']:+.3f} ± {row['regret_interval']:.3f}"
        by_type = np.mean(row["score"], axis=0)
        rows.append(
            [row["contestant"], f"{row['mean']:.3f}", interval, *(f"{v:.3f}" for v in by_type)]
        )
    return markdown_table(header, rows)


def studied(config, dataset, args, found: dict) -> dict:
    """JSON of all contestants; static rules choose their help first."""
    helped = found.get("helped") or [best_help(config, dataset, rule, worlds=1) for rule in RULES]
    names = ["told", "root_only", *helped, *args.defender]
    played = play(config, dataset, names, range(FIRST, FIRST + args.worlds), found)
    return played if played == found else {**played, "helped": helped}


def draw_figure(config, dataset, defender: str) -> None:
    """Accuracy and attack success over the rounds, of four worlds, by who aggregates."""
    found: dict[str, list] = {}
    mixture = config.game.types.index("ipm:scale=2@0.1+bfl:boost=3@0.05")
    player = parse_contestant(defender, config.fl.num_sampled).player
    for s in range(FIRST, FIRST + 4):
        base = world(trust_game(config), dataset, s, FINAL)
        bounded, still = by_rule(base, "fltrust", config.game.assumed_share, "neuron_clip")
        lines = {
            "no attack": (base, player, True, 0),
            "perfect filter": (base, player, True, mixture),
            "learned": (base, player, False, mixture),
            "FLTrust, neuron clipping": (bounded, still, False, mixture),
        }
        for name, (game, who, told, k) in lines.items():
            found.setdefault(name, []).append(course(game, who, told, k, s))
            print(s, name, found[name][-1][-1].round(3), flush=True)
    figure = Figure(figsize=(9.2, 3.5))
    for axis, which, title in zip(
        figure.subplots(1, 2), (0, 1), ("accuracy", "success of the backdoor"), strict=True
    ):
        for name, values in found.items():
            line = np.mean(values, axis=0)[:, which]
            axis.plot(EVERY * np.arange(1, len(line) + 1), line, label=name)
        axis.set(title=title, xlabel="round", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    figure.tight_layout()
    save(figure, OUT.with_suffix(".png"))


if __name__ == "__main__":
    main()
