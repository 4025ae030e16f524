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
# # Figure 2: defences over the rounds of a mixed attack
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/metasg-jax/metasg_jax/blob/main/notebooks/figure_2.ipynb)
#
# Figure 2(b) of the paper ([arXiv 2306.13800](https://arxiv.org/abs/2306.13800)) follows accuracy
# and backdoor success over the rounds of an attack that mixes two: IPM by 10 % of the clients,
# which pushes the model back, and BFL by 5 %, which plants a backdoor. The paper has CIFAR-10, its
# own defender, and FLTrust with neuron clipping as the baseline. This notebook has the same mix on
# MNIST at 14 x 14 pixels and the defender `v1`: compare its lines with each other, not with the
# paper's. It downloads MNIST (11 MB), and takes some minutes on a CPU.

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

from metasg_jax import FLConfig, GameConfig, load, load_defender, make_game, make_rule
from metasg_jax.aggregators import Mean
from metasg_jax.evaluation.matrix import judge
from metasg_jax.fl import Attackers, Call, Federation, collect, sample_clients, to_unit
from metasg_jax.post_defenses import NeuronClip, NoDefense

SMOKE = os.environ.get("METASG_SMOKE") == "1"  # digits and few rounds, for the tests
ROUNDS, EVERY = (4, 2) if SMOKE else (100, 5)
RULES = ("mean",) if SMOKE else ("mean", "median", "krum", "fltrust", "fltrust + neuron_clip")

# %% [markdown]
# ## The federation
#
# 100 clients, of which ten answer in each round; half of a client's images are of one class of its
# own (q = 0.5). A tenth of the clients pushes back, a twentieth plants the backdoor and multiplies
# its updates by 3. The server has 100 labelled images.

# %%
dataset = load("digits" if SMOKE else "mnist")
game = make_game(
    GameConfig(
        dataset=dataset.name, pool=1 if SMOKE else 2, level=0.5, num_validation=200,
        num_root=40 if SMOKE else 100, types=("ipm:scale=2@0.1+bfl:boost=3@0.05",),
    ),
    FLConfig(num_clients=100, num_sampled=10, batch_size=16 if SMOKE else 64),
    dataset,
)  # fmt: skip
federation = Federation(game.model, game.fl, game.data)
colluders = game.prior.colluders(game.prior[0])


@jax.jit
def clients_answer(key, w, round, attack_states):
    """(what the server receives, the attackers' states, which clients are malicious)."""
    key_sample, key_collect = jax.random.split(key)
    ids = sample_clients(key_sample, game.fl.num_clients, game.fl.num_sampled)
    attackers = Attackers(colluders, attack_states, (jnp.zeros(1), jnp.zeros(1)))
    received, attack_states = collect(
        key_collect, federation, Call(w, ids, round), attackers, Mean(), needs_root=True
    )
    malicious = colluders[0].members(ids, round) | colluders[1].members(ids, round)
    return received, attack_states, malicious


@jax.jit
def measured(w):
    """[accuracy, backdoor success] on test images: of the model as it is, and of a clipped copy."""
    found = judge(jax.random.key(0), game, w, 0, (NoDefense(), NeuronClip()))
    return jnp.stack([found.accuracy, found.asr], axis=1)


# %% [markdown]
# ## The defences
#
# Each makes one update of what the server received. The rules stand still; `v1` remembers what
# clients sent; the perfect filter is told who is malicious and takes the mean of the others, which
# no real defence can know: it is the line to reach. Neuron clipping is a post-training defence: it
# bounds the activations of the copy that is deployed, and leaves the training as it is.

# %%
n, d = game.fl.num_sampled, game.model.num_params
fresh = game.model.init(jax.random.key(1))
defender = load_defender(
    "v1", apply=game.model.apply, root=(to_unit(game.root_x), np.asarray(game.root_y))
)
server = defender.server(fresh)


def of_rule(text):
    rule = jax.jit(make_rule(text, num_sampled=n, assumed_share=0.2))
    return lambda key, state, received, malicious: rule(key, state, received)[:2]


def v1(key, state, received, malicious):
    return defender.step(state, received, server=server)[:2]


def perfect_filter(key, state, received, malicious):
    honest = received.replace(weights=jnp.where(malicious, 0.0, received.weights))
    return Mean()(key, state, honest)[:2]


DEFENCES = {
    "perfect filter": (perfect_filter, ()),
    "v1": (v1, defender.init(fresh)),
    **{name: (of_rule(name.split()[0]), ()) for name in RULES},
}

# %% [markdown]
# ## The rounds
#
# All defences meet the same clients in the same order, with the same batches.


# %%
def course(name, defend, state):
    """(accuracy, backdoor success) [ROUNDS / EVERY, 2]."""
    w, found = game.model.ravel(fresh), []
    attack_states = tuple(group.table.init(n, d) for group in colluders)
    for t in range(ROUNDS):
        key = jax.random.fold_in(jax.random.key(2), t)
        received, attack_states, malicious = clients_answer(key, w, jnp.int32(t), attack_states)
        update, state = defend(key, state, received, malicious)
        w = w - update
        if (t + 1) % EVERY == 0:
            found.append(measured(w)[int(name.endswith("neuron_clip"))])
    return np.array(found)


curves = {name: course(name, *defence) for name, defence in DEFENCES.items()}
for name, curve in curves.items():
    print(f"{name:21s}  accuracy {curve[-1, 0]:.3f}  backdoor success {curve[-1, 1]:.3f}")

# %%
STYLES = {"perfect filter": dict(color="lightgray", lw=6), "v1": dict(color="black", lw=2)}
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
rounds = EVERY * np.arange(1, ROUNDS // EVERY + 1)
for i, (axis, title) in enumerate(zip(axes, ("accuracy", "backdoor success"), strict=True)):
    for name, curve in curves.items():
        axis.plot(rounds, curve[:, i], label=name, **STYLES.get(name, {}))
    axis.set_title(title)
    axis.set_xlabel("round")
    axis.set_ylim(-0.02, 1.02)
    axis.grid(alpha=0.25)
axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
figure.tight_layout()

# %% [markdown]
# ## From here
#
# One world, one seed. Over twenty worlds, nine types of attackers and three heterogeneities:
# [a trust for each client](../docs/results/trust.md). What the paper's own game gives, where a
# policy turns three global knobs in place of a trust for each client:
# [what knobs can do](../docs/results/knobs.md).
