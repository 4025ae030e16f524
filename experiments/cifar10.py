"""CIFAR-10: the shipped defender, or that of a run, beside every control.

``python experiments/cifar10.py --defender v3`` plays ten final worlds, which no other
page uses (from number 310), and writes ``docs/results/cifar10.json``; who is there is not played
again. Static rules choose their help on a selection world. ``--figure`` plays the course over the
rounds of Figure 2(b) of the paper: 5 % of the clients plant a backdoor, 10 % push the model back;
each defender that is named is one training seed. It goes on where it was stopped.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from picture import by_rule, course
from trust import best_help, keep_playing, play

from metasg_jax.config import RunConfig
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
RESNET = (64, 128, 256, 512)
MIXTURE = "ipm:scale=2@0.1+bfl:boost=3@0.05"


def main() -> None:
    """Plays what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--defender", nargs="*", default=[], help="names or directories of runs")
    parser.add_argument("--worlds", type=int, default=WORLDS)
    parser.add_argument("--figure", action="store_true")
    parser.add_argument(
        "--model",
        choices=["cnn", "resnet18"],
        default="cnn",
        help="of --figure; resnet18, on whole images, is for a GPU",
    )
    parser.add_argument(
        "--minutes", type=float, default=np.inf, help="--figure begins no line after so many"
    )
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
        path = FIGURE if args.model == "cnn" else FIGURE.with_stem(f"{FIGURE.stem}_{args.model}")
        draw_figure(play_figure(stage(config, args.model), dataset, args, path), path)
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


def stage(config: RunConfig, model: str) -> RunConfig:
    """The preset with another model: a ResNet sees whole images, in bfloat16."""
    if model == "cnn":
        return config
    game = dataclasses.replace(config.game, model=model, hidden=RESNET, pool=1)
    fl = dataclasses.replace(config.fl, precision="bfloat16")
    return dataclasses.replace(config, game=game, fl=fl)


def play_figure(config: RunConfig, dataset, args, path: Path) -> dict:
    """Figure 2(b): accuracy and attack success over the rounds, by line and world.

    Each of ``args.defender`` is a training seed. Written to ``path`` as it comes; what is there is
    not played again.
    """
    found = json.loads(path.read_text()) if path.is_file() else {}
    started = time.monotonic()
    mixture, share = config.game.types.index(MIXTURE), config.game.assumed_share
    learned = [parse_contestant(name, config.fl.num_sampled).player for name in args.defender]

    def ruled(rule, post):
        return lambda base: (*by_rule(base, rule, share, post), False, mixture)

    lines = {
        "no attack": lambda base: (base, learned[0], True, 0),
        "perfect filter": lambda base: (base, learned[0], True, mixture),
        "FLTrust, neuron clipping": ruled("fltrust", "neuron_clip"),
        "multi-Krum, fine-tuned": ruled("multi_krum", "fine_tune"),
    } | {
        f"learned: {name}": lambda base, who=player: (base, who, False, mixture)
        for name, player in zip(args.defender, learned, strict=True)
    }
    for s in range(FIRST, FIRST + args.worlds):
        missing = [name for name in lines if str(s) not in found.get(name, {})]
        base = world(trust_game(config), dataset, s, FINAL) if missing else None
        for name in missing:
            if (time.monotonic() - started) / 60 > args.minutes:
                print(f"{args.minutes:g} minutes are over: the same command goes on")
                return found
            played = course(*lines[name](base), s, POINT).round(4).tolist()
            found.setdefault(name, {})[str(s)] = played
            print(s, name, played[-1], flush=True)
            path.write_text(json.dumps(found) + "\n")
    return found


def draw_figure(found: dict, path: Path) -> None:
    """A picture beside the JSON: means over worlds; the range over training seeds is shaded."""
    curves = {name: np.mean(list(worlds.values()), axis=0) for name, worlds in found.items()}
    learned = np.array([curves.pop(n) for n in list(curves) if n.startswith("learned")])
    figure = Figure(figsize=(9.2, 3.5))
    for axis, which, title in zip(
        figure.subplots(1, 2), (0, 1), ("accuracy", "success of the backdoor"), strict=True
    ):
        for name, line in curves.items():
            axis.plot(POINT * np.arange(1, len(line) + 1), line[:, which], label=name)
        if len(learned):  # a run that was cut may not have come to them
            rounds, each = POINT * np.arange(1, learned.shape[1] + 1), learned[..., which]
            axis.plot(rounds, each.mean(axis=0), color="black", lw=2.4, label="learned")
            axis.fill_between(rounds, each.min(axis=0), each.max(axis=0), color="black", alpha=0.15)
        axis.set(title=title, xlabel="round", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.25)
    figure.axes[1].legend(frameon=False)
    figure.tight_layout()
    save(figure, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
