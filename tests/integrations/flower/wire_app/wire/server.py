"""A defended server that writes down how it fared."""

import json
import resource
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp

from metasg_jax.integrations.flower import TrustedFedAvg

app = ServerApp()


@app.main()
def main(grid, context):
    run = context.run_config
    strategy = TrustedFedAvg(min_train_nodes=run["nodes"], fraction_evaluate=0.0)
    model = {"kernel": np.ones((4, 3), np.float32), "bias": np.zeros(3, np.float32)}
    initial = ArrayRecord({name: Array(a) for name, a in model.items()})
    result = strategy.start(grid, initial, run["rounds"], run["timeout"])
    found = {
        "tally": {str(node): entry for node, entry in strategy.tally.all().items()},
        "bias": result.arrays["bias"].numpy().tolist(),
        "rounds": [dict(metrics) for metrics in result.train_metrics_clientapp.values()],
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    out = Path(run["out"])
    part = out.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.rename(out)
