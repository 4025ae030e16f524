"""Defences against attacks in the outside federation: a table and a JSON file.

    python -m tests.outside.run --dataset mnist --model mlp --attacks all \\
        --defences perfect mean median fltrust v1 --rounds 60 --seeds 0 1 --out file.json
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np

from tests.outside.attacks import ATTACKS
from tests.outside.federation import ConvNet, Federation, Learner, Perceptron, Pictures
from tests.outside.rules import RULES, Shipped

MODELS = {"mlp": Perceptron, "cnn": ConvNet}
PARTS = ("images", "own_model")


def pictures_of(name):
    from metasg_jax.data import load

    d = load(name)
    return Pictures(d.train_x, d.train_y, d.test_x, d.test_y, d.num_classes)


def shipped(name, federation, without=()):
    """A defender by name or directory, with all that the server can give it."""
    from metasg_jax import load_defender

    given = {}
    if "images" not in without:
        given = {"apply": federation.model.apply, "root": federation.root_for_defender()}
    return Shipped(load_defender(name, **given), own_model="own_model" not in without)


def grid(args, say=print):
    """A record for each seed, attack and defence."""
    pictures = pictures_of(args.dataset)
    model = MODELS[args.model](pictures.train_x.shape[1:], classes=pictures.classes)
    x = pictures.train_x
    learner = Learner(model, x.mean() / 255, x.std() / 255, args.lr, args.momentum)
    records = []
    for seed in args.seeds:
        federation = Federation(
            pictures,
            model,
            seed,
            clients=args.clients,
            sampled=args.sampled,
            malicious_share=args.malicious,
            alpha=args.alpha,
            images=args.images_per_client * args.clients,
            root=args.root,
            steps=args.steps,
            batch=args.batch,
            learner=learner,
        )
        rules = {name: RULES[name]() for name in args.defences if name in RULES}
        for name in args.defences:
            if name not in rules:
                rules[name] = shipped(name, federation, args.without)
        for path in args.defender:
            rules[path] = shipped(path, federation, args.without)
        for attack_name in args.attacks:
            attack = ATTACKS[attack_name](seed, pictures.classes, args.rounds)
            for name, rule in rules.items():
                outcome = federation.run(rule, attack, args.rounds)
                record = {"seed": seed, "attack": attack_name, "defence": name}
                record |= {
                    f.name: getattr(outcome, f.name)
                    for f in dataclasses.fields(outcome)
                    if f.name not in ("final", "sampled")
                }
                records.append(record)
                if say:
                    success = "" if outcome.success is None else f", backdoor {outcome.success:.3f}"
                    say(
                        f"seed {seed} {attack_name:16} {name:12} score {outcome.score:6.3f} "
                        f"(accuracy {outcome.accuracy:.3f}{success}) {outcome.seconds:.1f} s",
                        flush=True,
                    )
            write(args, records)
    return records


def write(args, records):
    if args.out:
        whole = {"settings": vars(args), "records": records, "summary": summary(records)}
        Path(args.out).write_text(json.dumps(whole, indent=1) + "\n")


def averages(records, what="score"):
    """{defence: {attack: mean over seeds}}."""
    table = {}
    for r in records:
        table.setdefault(r["defence"], {}).setdefault(r["attack"], []).append(r[what])
    return {
        d: {a: None if None in v else float(np.mean(v)) for a, v in row.items()}
        for d, row in table.items()
    }


def summary(records):
    """By defence: mean score, regret to the perfect filter, shares kept of each kind."""
    scores, out = averages(records), {}
    for name, row in scores.items():
        out[name] = {"scores": row, "mean": float(np.mean(list(row.values())))}
        if "perfect" in scores:
            regrets = {
                a: scores["perfect"][a] - s for a, s in row.items() if a in scores["perfect"]
            }
            out[name]["regret_mean"] = float(np.mean(list(regrets.values())))
            out[name]["regret_worst"] = max(regrets.values())
            out[name]["worst_attack"] = max(regrets, key=regrets.get)
        for kind in ("kept_honest", "kept_malicious"):
            found = [r[kind] for r in records if r["defence"] == name and r[kind] is not None]
            out[name][kind] = float(np.mean(found)) if found else None
    return out


def table(records):
    """Rows of text: scores, then the shares kept (honest/malicious) where they are known."""
    found = summary(records)
    attacks = list(dict.fromkeys(r["attack"] for r in records))
    wide = max(12, *(len(d) for d in found)) + 1
    columns = [max(len(a), 9) + 2 for a in attacks]

    def line(name, cells, tail):
        cells = [f"{c:>{w}}" for c, w in zip(cells, columns, strict=True)]
        return f"{name:{wide}}" + "".join(cells) + "".join(f"{t:>10}" for t in tail)

    def number(x):
        return "-" if x is None else f"{x:.3f}"

    def shares(honest, malicious):
        return "/".join("-" if x is None else f"{x:.2f}" for x in (honest, malicious))

    rows = [line("score", attacks, ["mean", "regret", "worst"])]
    for name, s in found.items():
        tail = [number(s["mean"]), number(s.get("regret_mean")), number(s.get("regret_worst"))]
        rows.append(line(name, [number(s["scores"].get(a)) for a in attacks], tail))
    honest, malicious = averages(records, "kept_honest"), averages(records, "kept_malicious")
    rows += ["", line("kept h/m", attacks, ["mean"])]
    for name, s in found.items():
        if s["kept_honest"] is not None:
            cells = [shares(honest[name].get(a), malicious[name].get(a)) for a in attacks]
            tail = [shares(s["kept_honest"], s["kept_malicious"])]
            rows.append(line(name, cells, tail))
    return "\n".join(rows)


def arguments(given=None):
    p = argparse.ArgumentParser(prog="tests.outside.run")
    p.add_argument("--dataset", default="mnist", help="mnist, fashion_mnist or digits")
    p.add_argument("--model", choices=MODELS, default="mlp")
    p.add_argument("--attacks", nargs="+", default=["all"], choices=["all", *ATTACKS])
    p.add_argument(
        "--defences",
        nargs="*",
        default=["perfect", "mean", "median", "fltrust", "multi_krum", "trimmed", "root_only"],
        help=f"of {', '.join(RULES)}; another name is a shipped defender's",
    )
    p.add_argument("--defender", nargs="*", default=[], help="directories of defenders")
    p.add_argument(
        "--without", nargs="*", default=[], choices=PARTS, help="what a defender is not given"
    )
    p.add_argument("--rounds", type=int, default=60)
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--alpha", type=float, default=0.5)
    p.add_argument("--clients", type=int, default=40)
    p.add_argument("--sampled", type=int, default=8)
    p.add_argument("--malicious", type=float, default=0.2, help="share of all clients")
    p.add_argument("--images-per-client", type=int, default=150, help="on average")
    p.add_argument("--root", type=int, default=200, help="images that the server holds")
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--batch", type=int, default=20)
    p.add_argument("--lr", type=float, default=0.1)
    p.add_argument("--momentum", type=float, default=0.0)
    p.add_argument("--out")
    args = p.parse_args(given)
    if "all" in args.attacks:
        args.attacks = list(ATTACKS)
    return args


def main(given=None):
    args = arguments(given)
    began = time.perf_counter()
    records = grid(args)
    write(args, records)
    print(
        f"\n{args.dataset} {args.model} alpha={args.alpha} seeds={args.seeds} rounds={args.rounds}"
    )
    print(table(records))
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
