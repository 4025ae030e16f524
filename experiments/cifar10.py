"""CIFAR-10: the shipped defender, or that of a run, beside every control.

``python experiments/cifar10.py --defender v3`` plays ten final worlds, which no other
page uses (from number 310), and writes ``docs/results/cifar10.json``; who is there is not played
again. Static rules choose their help on a selection world. ``--figure`` plays the course over the
rounds of Figure 2(b) of the paper: 5 % of the clients plant a backdoor, 10 % push the model back;
each defender that is named is one training seed. It goes on where it was stopped.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from picture import by_rule, course
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
FIGURE, POINT = Path("docs/results/cifar10_figure2b.json"), 10  # rounds between two points
MIXTURE = "ipm:scale=2@0.1+bfl:boost=3@0.05"


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
        found = json.loads(FIGURE.read_text()) if FIGURE.is_file() else {}
        draw_figure(play_figure(config, dataset, args, found))
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


def play_figure(config, dataset, args, found: dict) -> dict:
    """JSON of Figure 2(b): accuracy and attack success over the rounds, by line and world.

    Each of ``args.defender`` is a training seed. What was played before is not played again.
    """
    mixture = config.game.types.index(MIXTURE)
    learned = [parse_contestant(name, config.fl.num_sampled).player for name in args.defender]
    for s in range(FIRST, FIRST + args.worlds):
        base = world(trust_game(config), dataset, s, FINAL)
        share = config.game.assumed_share
        lines = {
            "no attack": (base, learned[0], True, 0),
            "perfect filter": (base, learned[0], True, mixture),
            "FLTrust, neuron clipping": (
                *by_rule(base, "fltrust", share, "neuron_clip"), False, mixture,
            ),
            "multi-Krum, fine-tuned": (
                *by_rule(base, "multi_krum", share, "fine_tune"), False, mixture,
            ),
        }  # fmt: skip
        for name, player in zip(args.defender, learned, strict=True):
            lines[f"learned: {name}"] = (base, player, False, mixture)
        for name, (game, who, told, k) in lines.items():
            worlds = found.setdefault(name, {})
            if str(s) in worlds:
                continue
            worlds[str(s)] = course(game, who, told, k, s, POINT).round(4).tolist()
            print(s, name, worlds[str(s)][-1], flush=True)
            FIGURE.write_text(json.dumps(found, indent=None) + "\n")
    return found


def draw_figure(found: dict) -> None:
    """Means over worlds; learned ones over training seeds too, with their range shaded."""
    curves = {name: np.mean(list(worlds.values()), axis=0) for name, worlds in found.items()}
    learned = np.array([curves.pop(n) for n in list(curves) if n.startswith("learned")])
    figure = Figure(figsize=(9.2, 3.5))
    for axis, which, title in zip(
        figure.subplots(1, 2), (0, 1), ("accuracy", "success of the backdoor"), strict=True
    ):
        for name, line in curves.items():
            axis.plot(POINT * np.arange(1, len(line) + 1), line[:, which], label=name)
        rounds = POINT * np.arange(1, learned.shape[1] + 1)
        each = learned[..., which]
        axis.plot(rounds, each.mean(axis=0), color="black", lw=2.4, label="learned")
        axis.fill_between(rounds, each.min(axis=0), each.max(axis=0), color="black", alpha=0.15)
        axis.set(title=title, xlabel="round", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.25)
    figure.axes[1].legend(frameon=False)
    figure.tight_layout()
    save(figure, FIGURE.with_suffix(".png"))


if __name__ == "__main__":
    main()
