"""Small models, root images and jitted calls that the tests of this folder share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.models import make_model
from metasg_jax.post_defenses import POST_DEFENSES, undefended

MODELS = {
    "mlp": make_model("mlp", (4, 4, 1), 3, (7, 5)),
    "cnn": make_model("cnn", (16, 16, 1), 3, (4, 5, 6)),
}

apply = jax.jit(lambda model, *args: model.apply(*args), static_argnums=0)
activations = jax.jit(lambda model, *args: model.activations(*args), static_argnums=0)
calibrate = jax.jit(lambda defence, model, *args: defence.calibrate(model, *args), static_argnums=1)


@functools.cache
def setting(kind):
    """(model, params, root images, labels); two of 20 labels are not what the model says."""
    model = MODELS[kind]
    params = jax.tree.map(np.asarray, jax.jit(model.init)(jax.random.key(2)))
    root = np.random.default_rng(0).uniform(size=(20, *model.input_shape)).astype(np.float32)
    # around the mean logits: else the largest is the same for all images
    logits = np.asarray(apply(model, params, root))
    params["head"]["bias"] = -logits.mean(axis=0)
    labels = np.asarray(apply(model, params, root)).argmax(axis=1)
    labels[:2] = (labels[:2] + 1) % model.num_classes
    return model, params, root, labels


@functools.cache
def calibrated(name, kind):
    """A defence, what it calibrated on the model as it was trained, and that model."""
    model, params, *root = setting(kind)
    # with 20 images one is 0.05: a guard has to allow some
    defence = POST_DEFENSES[name](**({"tolerance": 0.2} if name == "guarded_prune" else {}))
    trained = undefended(model, params)
    return defence, calibrate(defence, model, trained, *root), trained


@jax.jit
def deploy(defence, state, deployed, action):
    return defence(jax.random.key(0), state, deployed, action)[0]


def accuracy(kind, deployed):
    model, _, root, labels = setting(kind)
    logits = apply(model, deployed.params, root, jnp.asarray(deployed.clip, jnp.float32))
    return (np.asarray(logits).argmax(axis=1) == labels).mean()
