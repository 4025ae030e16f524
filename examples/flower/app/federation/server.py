"""The server: a strategy by name, and what the model is worth after each round."""

import importlib
import json
import time
from pathlib import Path

import jax
import numpy as np
from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp import strategy as flower

from metasg_jax.data import TRIGGERS
from metasg_jax.integrations.flower import TrustedFedAvg

TARGET = 0


def trusted(defender, model, images, run, **common):
    """The three lines that this example is about."""
    root = (images["root_x"].astype(np.float32) / 255, images["root_y"])

    def train_root(arrays, round):
        seed = [run["seed"], round]
        return model.train(arrays, *root, lr=run["lr"], batch_size=run["batch-size"], seed=seed)

    return TrustedFedAvg(
        root=root,
        apply=model.apply,
        train_root=train_root,
        checkpoint_dir=run["checkpoint-dir"] or None,
        **({"defender": defender} if defender else {}),
        **common,
    )


def strategy_of(name, model, images, run):
    """A strategy of ours or of Flower's, told how many clients are hostile if it asks.

    ``TrustedFedAvg:NAME`` has that defender, a shipped one or the directory of a run.
    """
    name, _, defender = name.partition(":")
    common = {"fraction_evaluate": 0.0, "min_train_nodes": run["clients"]}
    common["min_available_nodes"] = run["clients"]
    bad, n = run["malicious"], run["clients"]
    make = {
        "TrustedFedAvg": lambda: trusted(defender, model, images, run, **common),
        "FedAvg": lambda: flower.FedAvg(**common),
        "FedMedian": lambda: flower.FedMedian(**common),
        "FedTrimmedAvg": lambda: flower.FedTrimmedAvg(beta=bad / n, **common),
        "Krum": lambda: flower.Krum(num_malicious_nodes=bad, **common),
        "MultiKrum": lambda: flower.MultiKrum(
            num_malicious_nodes=bad, num_nodes_to_select=n - bad, **common
        ),
        # it needs 4 f + 3 clients
        "Bulyan": lambda: flower.Bulyan(num_malicious_nodes=min(bad, (n - 3) // 4), **common),
    }
    return make[name]()


class Judge:
    """Accuracy on test images, how often the trigger works, and where the time goes."""

    def __init__(self, model, images):
        self.x, self.y = images["test_x"].astype(np.float32) / 255, images["test_y"]
        mask, pattern = TRIGGERS["square"](self.x.shape[1:])
        self.stamped = self.x[self.y != TARGET] * (1 - mask) + mask * pattern
        self.guess = jax.jit(lambda params, x: model.apply(params, x).argmax(1))
        self.rounds, self.defence, self.began = [], [], time.perf_counter()

    def evaluate(self, round, arrays):
        """For Flower's ``evaluate_fn``."""
        now = time.perf_counter()
        params = {name: array.numpy() for name, array in arrays.items()}
        accuracy = float((np.asarray(self.guess(params, self.x)) == self.y).mean())
        success = float((np.asarray(self.guess(params, self.stamped)) == TARGET).mean())
        values = {"accuracy": accuracy, "attack_success": success, "seconds": now - self.began}
        self.rounds.append({"round": round, **values})
        self.began = time.perf_counter()
        return MetricRecord(values)

    def watch(self, strategy):
        """Measures its aggregation."""
        aggregate = strategy.aggregate_train

        def timed(*args):
            began = time.perf_counter()
            out = aggregate(*args)
            self.defence.append(time.perf_counter() - began)
            return out

        strategy.aggregate_train = timed
        return strategy


def serve(grid: Grid, run) -> dict:
    """Plays a federation; what came of it, as JSON."""
    model = importlib.import_module(f"federation.model_{run['framework']}")
    with np.load(Path(run["data"]) / "server.npz") as file:
        images = dict(file)
    shape, classes = images["test_x"].shape[1:], int(images["classes"])
    judge = Judge(model, images)
    strategy = judge.watch(strategy_of(run["strategy"], model, images, run))
    first = model.fresh(run["seed"], shape, classes)
    initial = ArrayRecord({name: Array(array) for name, array in first.items()})
    failed = ""
    try:
        strategy.start(
            grid,
            initial,
            num_rounds=run["rounds"],
            timeout=run["timeout"],
            evaluate_fn=judge.evaluate,
        )
    except Exception as error:  # Flower's own strategies stop at a reply that they can't use
        failed = f"{type(error).__name__}: {error}"
    tally = strategy.tally.all() if isinstance(strategy, TrustedFedAvg) else {}
    return {
        "strategy": run["strategy"],
        "framework": run["framework"],
        "seed": run["seed"],
        "attack": run["attack"],
        "failed": failed,
        "rounds": judge.rounds,
        "defence": judge.defence,
        "tally": {str(node): entry for node, entry in tally.items()},
    }


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """The ServerApp: plays a run and leaves its result in a file."""
    result = serve(grid, context.run_config)
    out = Path(context.run_config["out"])
    part = out.with_suffix(".part")
    part.write_text(json.dumps(result))
    part.rename(out)  # whoever waits for it finds it whole
