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
# # Quickstart: attack a federation, and defend it
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/metasg-jax/metasg_jax/blob/main/notebooks/quickstart.ipynb)
#
# In federated learning a server trains a classifier without seeing its clients' images: each round
# it sends out the model, some clients train it on images of their own, and the server averages what
# they send back. Some clients may be malicious. Here a fifth of them is:
#
# - a tenth pushes the model back (`ipm`, inner-product manipulation),
# - another tenth plants a backdoor (`bfl`): images with a small square are to be taken for a 0.
#
# The notebook trains the same federation twice, once with the plain mean and once with the
# defender `v1`, which comes with the package. It takes less than three minutes on a CPU, and
# downloads nothing: the images are the digits of scikit-learn.

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

from metasg_jax import FLConfig, GameConfig, load_defender, make_game
from metasg_jax.aggregators import Mean
from metasg_jax.fl import Attackers, Call, Federation, collect, sample_clients, to_unit

SMOKE = os.environ.get("METASG_SMOKE") == "1"  # smaller still, for the tests

# %% [markdown]
# ## A federation under attack
#
# Fifty clients, ten of which answer in each round. `level=0.5`: half of what a client holds is of
# one class of its own. The server has 40 labelled images, which the defender will look at. An
# attack is a string, `name:knob=value@share of the clients`; `+` joins two.

# %%
ATTACK = "ipm:scale=2@0.1+bfl:boost=3@0.1"
game = make_game(
    GameConfig(
        dataset="digits", hidden=(32,), level=0.5, num_root=40, num_validation=200, types=(ATTACK,)
    ),
    FLConfig(num_clients=50, num_sampled=10, batch_size=16, horizon=4 if SMOKE else 60),
)  # fmt: skip
federation = Federation(game.model, game.fl, game.data)
attack = game.prior[0]
colluders = game.prior.colluders(attack)
for name, group in zip(("backdoor", "pushes back"), colluders, strict=True):
    first, last = int(group.first), int(group.first + group.count - 1)
    print(f"{name}: clients {first} to {last}")

# %% [markdown]
# `collect` plays the clients of one round, honest and malicious ones: they train on their own
# images, attackers change what they send, and the server receives a row for each client, the
# difference between the model that it sent out and the one that came back.


# %%
@jax.jit
def clients_answer(key, w, round, attack_states):
    """(ids of the clients, their models f32[n, d], the attackers' states)."""
    key_sample, key_collect = jax.random.split(key)
    ids = sample_clients(key_sample, game.fl.num_clients, game.fl.num_sampled)
    actions = (jnp.zeros(1), jnp.zeros(1))  # read by attackers that learn; these two do not
    attackers = Attackers(colluders, attack_states, actions)
    received, attack_states = collect(
        key_collect, federation, Call(w, ids, round), attackers, Mean(), needs_root=False
    )
    return ids, w - received.updates, attack_states


@jax.jit
def measured(w):
    """(accuracy, how many of the stamped images of other classes are taken for the target)."""
    x, y = to_unit(game.test_x), game.test_y
    mask = attack.trigger_mask
    stamped = (1 - mask) * x + mask * attack.trigger_pattern
    guess, fooled = (game.model.apply(game.model.unravel(w), z).argmax(-1) for z in (x, stamped))
    others = y != attack.target
    return jnp.mean(guess == y), jnp.sum((fooled == attack.target) & others) / others.sum()


# %% [markdown]
# ## Defend it
#
# `load_defender` is what a server of yours would call. It gets a function that computes logits, and
# the server's images; each round it gets the clients' models, and returns the next model with a
# report. `report["trust"]` says for each client how likely it is to be worth keeping.

# %%
defender = load_defender(
    "v1", apply=game.model.apply, root=(to_unit(game.root_x), np.asarray(game.root_y))
)


def train(defended: bool):
    """(accuracy and backdoor success by round, trust of each client by round)."""
    model = game.model.init(jax.random.key(1))
    n, d = game.fl.num_sampled, game.model.num_params
    attack_states = tuple(group.table.init(n, d) for group in colluders)
    state, curve = defender.init(model), []
    trust = np.full((game.fl.num_clients, game.fl.horizon), np.nan)
    for t in range(game.fl.horizon):
        key = jax.random.fold_in(jax.random.key(2), t)
        ids, rows, attack_states = clients_answer(
            key, game.model.ravel(model), jnp.int32(t), attack_states
        )
        ids = [int(i) for i in ids]
        if defended:
            clients = [jax.device_get(game.model.unravel(row)) for row in rows]
            model, state, report = defender.aggregate(state, model, clients, client_ids=ids)
            trust[ids, t] = [report["trust"][i] for i in ids]
        else:
            model = game.model.unravel(rows.mean(axis=0))
        curve.append([float(value) for value in measured(game.model.ravel(model))])
    return np.array(curve), trust


undefended, _ = train(defended=False)
defended, trust = train(defended=True)
for name, curve in (("plain mean", undefended), ("v1", defended)):
    print(f"{name:10s}  accuracy {curve[-1, 0]:.3f}  backdoor success {curve[-1, 1]:.3f}")

# %% [markdown]
# ## What it did
#
# On the right, a dot is a client that answered in that round: blue is trust, red distrust. Above
# the line are the malicious clients; nobody told the defender which ones they are.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
for name, curve, style in (("plain mean", undefended, "--"), ("v1", defended, "-")):
    left.plot(curve[:, 0], style, color="tab:blue", label=f"{name}: accuracy")
    left.plot(curve[:, 1], style, color="tab:red", label=f"{name}: backdoor success")
left.set_xlabel("round")
left.set_ylim(-0.02, 1.02)
left.grid(alpha=0.25)
left.legend(frameon=False, fontsize=8, loc="center right")
client, round = np.nonzero(~np.isnan(trust))
dots = right.scatter(round, client, c=trust[client, round], cmap="RdBu", vmin=0, vmax=1, s=12)
right.axhline(sum(int(group.count) for group in colluders) - 0.5, color="black", lw=1)
right.invert_yaxis()
right.set_xlabel("round")
right.set_ylabel("client")
figure.colorbar(dots, label="trust")
figure.tight_layout()

# %% [markdown]
# ## From here
#
# - change `ATTACK`: the names are in [running it](../docs/running.md), or printed by `metasg list`;
# - what the defender looks at: [trust](../docs/concepts/trust.md); how well it does, and where it
#   fails: [results](../docs/results/trust.md);
# - your own server: [deploy a defender](../docs/howto/deploy.md);
# - the other notebooks: [your own attack and rule](own_attack_and_rule.ipynb),
#   [train a defender on a GPU](train_on_gpu.ipynb), [Figure 2](figure_2.ipynb).
