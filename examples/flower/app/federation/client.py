"""A client: it trains on images of its own, and may be hostile if its operator wants it to."""

import importlib
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from metasg_jax.integrations.flower import poison, poisoned


def attack_of(context: Context):
    """What this node's operator wrote into its config, such as "bfl:boost=3"; None is honest."""
    return context.node_config.get("attack")


app = ClientApp(mods=[poison(attack_of)])


@app.train()
def train(message: Message, context: Context) -> Message:
    """One epoch from the model that came; answers with the new one."""
    run = context.run_config
    model = importlib.import_module(f"federation.model_{run['framework']}")
    number, config = context.node_config["partition-id"], message.content["config"]
    with np.load(Path(run["data"]) / f"client-{number}.npz") as file:
        x, y = poisoned(file["x"], file["y"])
    new = model.train(
        {name: array.numpy() for name, array in message.content["arrays"].items()},
        x.astype(np.float32) / 255,
        y,
        lr=run["lr"],
        batch_size=run["batch-size"],
        seed=[run["seed"], config["server-round"], number],
    )
    content = {
        "arrays": ArrayRecord({name: Array(array) for name, array in new.items()}),
        "metrics": MetricRecord({"num-examples": len(y)}),
    }
    return Message(RecordDict(content), reply_to=message)
