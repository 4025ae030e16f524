"""Players of the games with known answers, at given parameters."""

import jax.numpy as jnp
import numpy as np

from metasg_jax.game.rollout import Player, init_normalizer
from metasg_jax.policies import Gaussian


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def pair(mean_d, mean_a, std=0.3):
    """Gaussian players with given means of their stretched actions."""
    out = []
    for mean in (mean_d, mean_a):
        mean = jnp.atleast_1d(jnp.asarray(mean, jnp.float32))
        layer = {"kernel": jnp.zeros((1, mean.shape[0])), "bias": mean}
        policy = Gaussian(mean.shape[0], (), std, learn_std=False)
        out.append(Player({"mean": {"Dense_0": layer}}, init_normalizer(1), policy))
    return out


def bias(player):
    return player.params["mean"]["Dense_0"]["bias"]
