"""What its operator wants: ``odd`` in the node's config. NumPy alone, so that it starts quickly."""

import os
import time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
TOO_MUCH = 100 * 2**20


def moved(arrays, number):
    """An honest update, nearly the same for all."""
    rng = np.random.default_rng(number)
    return {
        name: (a.numpy() + 0.1 + 0.01 * rng.normal(size=a.shape)).astype(np.float32)
        for name, a in arrays.items()
    }


@app.train()
def train(message, context):
    odd = context.node_config.get("odd", "")
    own = moved(message.content["arrays"], context.node_config["partition-id"])
    if odd == "stalls":
        time.sleep(600)
    if odd == "drops out":
        os._exit(1)
    if odd == "raises":
        raise ValueError("no")
    own |= {
        "nan": {"bias": np.full(3, np.nan, np.float32)},
        "other shapes": {"bias": np.zeros(7, np.float32)},
        "strings": {"bias": np.array(["a", "b", "c"])},
    }.get(odd, {})
    arrays = ArrayRecord({name: Array(a) for name, a in own.items()})
    if odd == "too much":
        arrays["bias"] = Array("float32", (3,), "numpy.ndarray", os.urandom(TOO_MUCH))
    metrics = MetricRecord({"num-examples": 10})
    content = {"arrays": arrays, "metrics": metrics}
    if odd == "nothing":
        content = {"config": ConfigRecord({"said": "nothing"})}
    return Message(RecordDict(content), reply_to=message)
