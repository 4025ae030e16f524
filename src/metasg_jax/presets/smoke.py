"""``smoke``: every part runs once, nothing is learned.

Not the paper's settings: two meta-steps, short episodes, four types. It gave no result worth a
number: it ends with a table, plots and a checkpoint on every data set.
"""

import dataclasses

from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig
from metasg_jax.presets.cpu import LEARNER


def get_config(dataset: str) -> RunConfig:
    """Settings for a data set: an MLP, on cifar10 a CNN."""
    cnn = dataset == "cifar10"
    game = GameConfig(
        dataset=dataset,
        pool=1 if dataset == "digits" else 2,
        model="cnn" if cnn else "mlp",
        hidden=(8, 16, 32) if cnn else (32,),
        num_root=50,
        num_validation=100,
        num_test=100,
        types=("none", "ipm@0.2", "rl@0.2", "bfl:boost=3@0.1"),
    )
    fl = FLConfig(num_clients=20, num_sampled=5, batch_size=16, horizon=5, local_lr=0.1)
    meta: MetaConfig = dataclasses.replace(LEARNER, group_size=2, epochs=1)
    return RunConfig(game, fl, meta, steps=2, chunk=1)
