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
# # Train a defender on a GPU
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/metasg-jax/metasg_jax/blob/main/notebooks/train_on_gpu.ipynb)
#
# `meta_sl_step` is Algorithm 2 of the paper, meta-Stackelberg learning: a pure function that
# compiles for the device that JAX finds. This notebook takes sixty meta-steps: on a GPU (in Colab:
# Runtime, Change runtime type) with sixteen rollouts side by side, on a CPU with two. The copy that
# you see was executed on a CPU. It shows how the pieces fit: good defences learn longer. Nothing is
# downloaded: the images are the digits of scikit-learn.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("metasg_jax") is None:
    source = "git+https://github.com/metasg-jax/metasg_jax"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)

# %%
import dataclasses
import os
import time

import jax
import matplotlib.pyplot as plt
import numpy as np

from metasg_jax import (
    FLConfig,
    GameConfig,
    RunConfig,
    evaluate,
    init_state,
    make_game,
    meta_sl_step,
)
from metasg_jax.data import cache, load
from metasg_jax.presets.cpu import LEARNER

# Compiling takes longer than playing: keep compiled programs for the next time.
jax.config.update("jax_compilation_cache_dir", str(cache.directory() / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

SMOKE = os.environ.get("METASG_SMOKE") == "1"  # smaller still, for the tests
ON_GPU = jax.default_backend() == "gpu"
STEPS, GROUP = 2 if SMOKE else 60, 16 if ON_GPU else 2
print(f"{STEPS} meta-steps of {GROUP} rollouts on {jax.devices()[0].device_kind}")

# %% [markdown]
# ## The game
#
# The defender (the leader) fixes a policy; the attacker (the follower) has a private type. A type
# is a string: `attack:knob=value@share of all clients`. Here there are three, equally likely:
#
# - `none`: every client is honest;
# - `rl@0.2`: a fifth of the clients follows an attacker that learns, too; it responds to the
#   defender's policy in every meta-step;
# - `bfl:boost=5@0.1`: a tenth of the clients plants a backdoor and multiplies its updates by 5.
#
# Each round, the defender sees statistics of the updates that it received and turns three knobs in
# [-1, 1]: `clip` (norm bound), `trim` (share trimmed at each side) and `range` (neuron clipping of
# the deployed copy). Its reward is minus the loss on the server's own images, minus the
# backdoor's success.

# %%
config = RunConfig(
    game=GameConfig(
        dataset="digits",
        hidden=(32,),
        num_root=50 if SMOKE else 100,
        num_validation=200,
        num_test=50 if SMOKE else 0,
        types=("none", "rl:max_steps=4@0.2", "bfl:boost=5@0.1"),
    ),
    fl=FLConfig(
        num_clients=20, num_sampled=5 if SMOKE else 10, batch_size=16, horizon=2 if SMOKE else 20
    ),
    # the learner of the preset `cpu`, with all rollouts of a batch side by side
    meta=dataclasses.replace(LEARNER, group_size=GROUP, rollouts_at_once=0),
)
dataset = load("digits")
game = make_game(config.game, config.fl, dataset)
print("types:", ", ".join(game.prior.names))
print("the defender's knobs:", ", ".join(game.action_names))
print("numbers it observes:", game.observation_spec)

# %% [markdown]
# ## Meta-steps
#
# One call does, for each type: adapt the meta policy to the type, let an adaptive attacker respond
# to the adapted policy, play both; then move the meta policy. `meta_sl_step` is a jitted pure
# function: state in, state out. The first call compiles. Every step plays new models, clients and
# batches, so the return goes up and down even where the policy does not change.
#
# A GPU makes one rollout hardly faster: a round of such small models takes as long as starting its
# kernels does. It plays many side by side: `group_size` is the number to raise
# ([on a GPU](../docs/howto/gpu.md)).

# %%
key_init, key_steps = jax.random.split(jax.random.key(0))
state = init_state(key_init, game, config.meta)
history = []
for step in range(STEPS):
    begin = time.perf_counter()
    state, info = meta_sl_step(jax.random.fold_in(key_steps, step), state, game, config.meta)
    history.append(jax.tree.map(np.asarray, info))
    if (step + 1) % 10 == 0:
        reward = np.mean([h["return_D"] for h in history[-10:]])
        print(f"meta-steps to {step + 1}: mean reward per round {reward:+.3f}")
print(f"the last meta-step took {time.perf_counter() - begin:.2f} s")

# %%
steps = np.arange(1, len(history) + 1)
figure, axis = plt.subplots(figsize=(6, 3.4))
for k, name in enumerate(game.prior.names):
    axis.plot(steps, [h["type/return_D"][k] for h in history], lw=1, label=name)
axis.plot(steps, [h["return_D"] for h in history], color="black", lw=2.4, label="over the prior")
axis.set_xlabel("meta-step")
axis.set_ylabel("defender's reward per round")
axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
axis.grid(alpha=0.25)

# %% [markdown]
# ## Judging it
#
# `evaluate` plays every defender on the same fresh worlds: another partition, another trigger and
# target, models from scratch, test images. `learned` plays the mode of the policy above and
# `untrained` that of a fresh policy; `centre` holds every knob at 0; `random` draws the knobs
# uniformly each round; `mean`, `median` and `krum` are fixed rules. The score is test accuracy,
# minus the backdoor's success rate where the type has a backdoor.
#
# The grid `(0, 0, 0)` leaves out the search for the best fixed action. A claim that a defence is
# good needs that search, longer episodes, and many more worlds than are played here. The curves
# below show accuracy alone: a defence can be accurate and let the backdoor in.

# %%
results, _ = evaluate(state, config, dataset, num_seeds=1 if SMOKE else 3, grid=(0, 0, 0))

means = results.score.mean(axis=1)
print(f"{'score':10s}", *(f"{name:>20s}" for name in results.types), f"{'mean':>8s}")
for name, row in zip(results.names, means, strict=True):
    print(f"{name:10s}", *(f"{value:20.3f}" for value in row), f"{row.mean():8.3f}")

# %%
figure, axis = plt.subplots(figsize=(6, 3.4))
for j, name in enumerate(results.names):
    accuracy = results.curve[j].mean(axis=0)  # over worlds: [type, point]
    axis.plot(results.rounds, results.probabilities @ accuracy, label=name)
axis.set_xlabel("round")
axis.set_ylabel("test accuracy, mean over types")
axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
axis.grid(alpha=0.25)

# %% [markdown]
# ## From here
#
# - the same as a command, with checkpoints, resumption and a table at the end:
#   `metasg pretrain --dataset mnist --meta.group-size 16`; `--dry-run` says what it would take;
# - a defender that decides about each client, as `v1` does, learns from a teacher that knows who is
#   malicious: `metasg pretrain --dataset digits`, three minutes on two cores
#   ([trust](../docs/concepts/trust.md));
# - the two algorithms: [concepts](../docs/concepts/algorithms.md);
# - what training on more of both reached: [what knobs can do](../docs/results/knobs.md).
