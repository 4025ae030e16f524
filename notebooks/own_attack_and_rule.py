# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own attack and rule
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/metasg-jax/metasg_jax/blob/main/notebooks/own_attack_and_rule.ipynb)
#
# An attack and a rule are a class each, and an entry in a dict. This notebook writes one of both,
# and plays them against what is there. It takes a minute on a CPU and downloads nothing.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("metasg_jax") is None:
    source = "git+https://github.com/metasg-jax/metasg_jax"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from metasg_jax import AGGREGATORS, UNTARGETED, FLConfig, GameConfig, make_game, make_rule
from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.presence import count_rejected, present_rows
from metasg_jax.attacks.base import AttackBase, seen
from metasg_jax.evaluation.matrix import play_cell
from metasg_jax.post_defenses import NoDefense

SMOKE = os.environ.get("METASG_SMOKE") == "1"  # smaller still, for the tests

# %% [markdown]
# ## An attack
#
# `plan` says how malicious clients train, `craft` what they send; this one overrides the second.
# `knowledge = "own"`: it sees the updates of its own clients and no others (the rest is zeroed
# before it is called). Its clients turn the mean of what they would have sent, and stretch it. Only
# the rows of malicious clients are read. Once it is registered, its fields are knobs of its string:
# `turned_mean:scale=3@0.2` is a fifth of the clients.


# %%
class TurnedMean(AttackBase):
    """All colluders send the mean of their honest updates, times ``-scale``."""

    scale: float = 1.0
    knowledge = "own"

    def craft(self, key, state, ctx, action):
        ours = ctx.malicious.astype(jnp.float32) / jnp.maximum(ctx.malicious.sum(), 1)
        return jnp.broadcast_to(-self.scale * (ours @ seen(ctx)), ctx.visible.shape), state, {}


UNTARGETED["turned_mean"] = TurnedMean

# %% [markdown]
# ## A rule
#
# A rule makes one update f32[d] of the rows f32[n, d] that clients sent. A row that is not finite
# is absent: `present_rows` zeroes it, so that no NaN gets into a sum. This rule keeps the rows that
# point the way that the median of all rows points, and shortens them to the median length.


# %%
class Aligned(AggregatorBase):
    """The mean of the rows whose cosine with the median row is above ``least``, none longer than
    the median row."""

    least: float = 0.0

    def __call__(self, key, state, received, action=None):
        rows, present = present_rows(received)
        median = jnp.nanmedian(jnp.where(present[:, None], rows, jnp.nan), axis=0)
        median = jnp.nan_to_num(median)  # where no row is there
        lengths, length = jnp.linalg.norm(rows, axis=1), jnp.linalg.norm(median)
        cosines = rows @ median / jnp.maximum(lengths * length, 1e-12)
        kept = present & (cosines > self.least)
        usual = jnp.nanmedian(jnp.where(present, lengths, jnp.nan))
        factor = jnp.where(kept, jnp.minimum(1.0, usual / jnp.maximum(lengths, 1e-12)), 0.0)
        update = factor @ rows / jnp.maximum(kept.sum(), 1)
        return update, state, {"rejected": count_rejected(received, present)}


AGGREGATORS["aligned"] = Aligned

# %% [markdown]
# ## Play them
#
# Each rule trains the same federation of digits without attack, under the attack at two strengths,
# and under one that comes with the package. `play_cell` plays all rounds as one compiled program;
# types of attackers differ in numbers, so that they share it.

# %%
TYPES = ("none", "turned_mean:scale=1@0.2", "turned_mean:scale=5@0.2", "alie:z=1.5@0.2")
RULES = ("mean", "aligned") if SMOKE else ("mean", "median", "aligned")
game = make_game(
    GameConfig(dataset="digits", hidden=(32,), level=0.5, num_validation=200, types=TYPES),
    FLConfig(num_clients=50, num_sampled=10, batch_size=16),
)


def accuracy(rule, i):
    played = game.replace(rule=make_rule(rule, num_sampled=10, assumed_share=0.2))
    key, rounds = jax.random.key(0), 2 if SMOKE else 100
    found = play_cell(key, played, jnp.int32(i), (NoDefense(),), num_rounds=rounds)
    return float(found.accuracy[0])


found = np.array([[accuracy(rule, i) for i in range(len(TYPES))] for rule in RULES])
print(f"{'test accuracy':14s}", *(f"{name:>24s}" for name in TYPES))
for rule, row in zip(RULES, found, strict=True):
    print(f"{rule:14s}", *(f"{value:24.3f}" for value in row))

# %%
figure, axis = plt.subplots(figsize=(9, 3.2))
places = np.arange(len(TYPES))
for j, rule in enumerate(RULES):
    axis.bar(places + 0.25 * (j - 1), found[j], width=0.23, label=rule)
axis.set_xticks(places, TYPES, fontsize=8)
axis.set_ylabel("test accuracy")
axis.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
axis.grid(axis="y", alpha=0.25)

# %% [markdown]
# ## From here
#
# One seed shows how it works; a claim needs several worlds, as
# [the matrix](../docs/results/matrix/matrix.md) has them. The names now work wherever attacks and
# rules are named from Python. What else an attack
# can declare (a backdoor, knobs that it learns to turn, what it knows of the others), and what a
# rule must not do: [your own attack](../docs/howto/own_attack.md),
# [your own rule](../docs/howto/own_rule.md).
