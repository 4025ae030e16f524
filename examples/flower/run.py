"""A federation of ten clients, two of them hostile, and a table of defences.

    python -m examples.flower.run                          # a SuperLink and ten SuperNodes
    python -m examples.flower.run --framework torch        # the same in PyTorch
    python -m examples.flower.run --in-process --strategies all --attacks all --seeds 0 1 2

Deployed, each node is a process of its own on this machine, and a client another one each round.
In process, the same clients, mods and strategies run in this process, by Flower's messages.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import tomli_w

from examples.flower.data import prepare
from examples.flower.processes import ended_by_signals, federation, submit
from examples.flower.table import table
from metasg_jax.errors import ConfigError
from metasg_jax.programs.device import enable_compilation_cache

APP = Path(__file__).parent / "app"
STRATEGIES = (
    "TrustedFedAvg",
    "FedAvg",
    "FedMedian",
    "FedTrimmedAvg",
    "Krum",
    "MultiKrum",
    "Bulyan",
)
ATTACKS = ("none", "bfl:boost=3", "label_flip", "sign_flip:scale=3", "ipm:scale=5", "alie:z=1.5")


def arguments(given=None) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="examples.flower.run", description=__doc__.split("\n")[0])
    p.add_argument("--in-process", action="store_true", help="no SuperLink, no SuperNodes")
    p.add_argument("--strategies", nargs="+", default=["TrustedFedAvg", "FedAvg"], help="or all")
    p.add_argument("--attacks", nargs="+", default=["bfl:boost=3"], help="or all")
    p.add_argument("--framework", choices=["jax", "torch"], default="jax")
    p.add_argument("--dataset", default="mnist")
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--rounds", type=int, default=12)
    p.add_argument("--clients", type=int, default=10)
    p.add_argument("--malicious", type=int, default=2, help="the first so many of the clients")
    p.add_argument("--images", type=int, default=600, help="of a client, on average")
    p.add_argument("--alpha", type=float, default=0.5, help="of Dirichlet's distribution")
    p.add_argument("--port", type=int, default=9300, help="the SuperLink's; nodes take the next")
    p.add_argument("--timeout", type=float, default=300.0, help="seconds a round waits")
    p.add_argument("--work", type=Path, default=Path("build/flower"), help="data, logs, programs")
    p.add_argument("--out", type=Path, help="a JSON file of all results, gone on with if there")
    args = p.parse_args(given)
    args.strategies = list(STRATEGIES) if args.strategies == ["all"] else args.strategies
    args.attacks = list(ATTACKS) if args.attacks == ["all"] else args.attacks
    for name in args.strategies:
        if name not in STRATEGIES and not name.startswith("TrustedFedAvg:"):
            raise ConfigError(
                f"--strategies {name}: of {', '.join(STRATEGIES)}, or TrustedFedAvg:DEFENDER"
            )
    if not 0 <= args.malicious < args.clients:
        raise ConfigError(f"--malicious {args.malicious}: from 0 to {args.clients - 1}, --clients")
    return args


def node_config(args: argparse.Namespace, attack: str, i: int) -> dict:
    """What the operator of a node wrote: who it is, and whether it is hostile."""
    config = {"partition-id": i, "num-partitions": args.clients}
    hostile = i < args.malicious and attack != "none"
    return config | ({"attack": attack} if hostile else {})


def run_config(args: argparse.Namespace, strategy: str, attack: str, seed: int) -> dict:
    """What the app is told of a run."""
    data = args.work / f"{args.dataset}-{seed}-{args.clients}-{args.images}-{args.alpha:g}"
    if not (data / "server.npz").is_file():
        prepare(data, args.dataset, seed, args.clients, args.images, args.alpha)
    return {
        "data": str(data.resolve()),
        "framework": args.framework,
        "strategy": strategy,
        "rounds": args.rounds,
        "seed": seed,
        "clients": args.clients,
        "malicious": args.malicious,
        "attack": attack,
        "lr": 0.1,
        "batch-size": 32,
        "checkpoint-dir": "",
        "timeout": args.timeout,
        "out": str((args.work / "result.json").resolve()),
    }


def in_process(args: argparse.Namespace, attack: str, config: dict) -> dict:
    """The federation in this process, by Flower's own strategies, messages and mods."""
    if str(APP) not in sys.path:
        sys.path.insert(0, str(APP))
    from federation.client import app  # pyrefly: ignore
    from federation.server import serve  # pyrefly: ignore

    from metasg_jax.integrations.flower import InProcessGrid

    nodes = InProcessGrid(
        app, args.clients, lambda i: node_config(args, attack, i), config, seed=config["seed"]
    )
    return serve(nodes, config)


def deployed(args: argparse.Namespace, home: Path, link, config: dict) -> dict:
    """Hands the app to the SuperLink, and waits for what its server writes."""
    out, patience = Path(config["out"]), 60 + args.rounds * args.timeout
    out.unlink(missing_ok=True)
    path = home / "run.toml"
    path.write_text(tomli_w.dumps(config))
    submit(APP, home, path)
    until = time.monotonic() + patience
    while not out.is_file():
        if link.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"no result after {patience:.0f} s: see the logs in {home}")
        time.sleep(0.5)
    return json.loads(out.read_text())


def play(args: argparse.Namespace, attack: str, done: list[dict], say=print) -> list[dict]:
    """All strategies and seeds against one attack; what is there already is not played again."""
    form = "in process" if args.in_process else "deployed"
    setting = {"form": form, "dataset": args.dataset, "num_rounds": args.rounds}
    todo = [
        (strategy, seed)
        for seed in args.seeds
        for strategy in args.strategies
        if not any(_same(r, args.framework, strategy, attack, seed, setting) for r in done)
    ]

    def finish(result: dict) -> None:
        done.append(result | setting)
        say(table(done[-1:]).splitlines()[-1], flush=True)
        write(args, done)

    if args.in_process or not todo:
        enable_compilation_cache()
        for strategy, seed in todo:
            finish(in_process(args, attack, run_config(args, strategy, attack, seed)))
        return done
    home = (args.work / "home").resolve()
    configs = [node_config(args, attack, i) for i in range(args.clients)]
    words = [" ".join(f"{k}={json.dumps(v)}" for k, v in config.items()) for config in configs]
    imports = (args.framework, "metasg_jax.integrations.flower")
    with ended_by_signals(), federation(home, args.port, words, imports) as link:
        for strategy, seed in todo:
            finish(deployed(args, home, link, run_config(args, strategy, attack, seed)))
    return done


def _same(record: dict, framework, strategy, attack, seed, setting) -> bool:
    mine = {"framework": framework, "strategy": strategy, "attack": attack, "seed": seed}
    return all(record.get(k) == v for k, v in (mine | setting).items())


def write(args: argparse.Namespace, done: list[dict]) -> None:
    if args.out:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        settings = {k: settings[k] for k in ("clients", "malicious", "images", "alpha")}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"settings": settings, "results": done}, indent=1) + "\n")


def main(given=None) -> None:
    args = arguments(given)
    done = []
    if args.out and args.out.is_file():
        done = json.loads(args.out.read_text())["results"]
    for attack in args.attacks:
        done = play(args, attack, done)
    print(table(done))


if __name__ == "__main__":
    try:
        main()
    except (ConfigError, RuntimeError) as error:
        sys.exit(f"error: {error}")
