"""A small CNN in JAX: two 3x3 convolutions, each halved by its averages, and a dense head."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

CHANNELS = (8, 16)


def fresh(seed, shape, classes=10):
    """The first model: arrays by name."""
    rng = np.random.default_rng(seed)
    h, w, c = shape
    widths = (c, *CHANNELS)
    params = {}
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        params[f"conv{i}/kernel"] = _he(rng, 9 * a, b).reshape(3, 3, a, b)
        params[f"conv{i}/bias"] = np.zeros(b, np.float32)
    flat = (h // 4) * (w // 4) * widths[-1]
    params["head/kernel"] = _he(rng, flat, classes)
    params["head/bias"] = np.zeros(classes, np.float32)
    return params


def apply(params, x):
    """Logits [B, C] of images [B, h, w, c] in [0, 1]."""
    for i in range(len(CHANNELS)):
        x = jax.lax.conv_general_dilated(
            x,
            params[f"conv{i}/kernel"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = _halved(jax.nn.relu(x + params[f"conv{i}/bias"][None, None, None, :]))
    return x.reshape(x.shape[0], -1) @ params["head/kernel"] + params["head/bias"][None]


def train(params, x, y, lr, batch_size, seed):
    """One epoch of SGD on x [m, h, w, c] in [0, 1], y [m]; the new arrays by name."""
    params = {name: jnp.asarray(array) for name, array in params.items()}
    for rows in _batches(len(y), batch_size, seed):
        params = _step(params, x[rows], y[rows], lr)
    return {name: np.asarray(array) for name, array in params.items()}


@functools.partial(jax.jit, static_argnames="lr")
def _step(params, x, y, lr):
    def loss(params):
        chosen = jax.nn.log_softmax(apply(params, x))[jnp.arange(len(y)), y]
        return -chosen.mean()

    slope = jax.grad(loss)(params)
    return {name: params[name] - lr * slope[name] for name in params}


def _batches(count, size, seed):
    order = np.random.default_rng(seed).permutation(count)
    return [order[i : i + size] for i in range(0, count - size + 1, size)] or [order]


def _halved(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def _he(rng, fan_in, fan_out):
    return (rng.standard_normal((fan_in, fan_out)) * np.sqrt(2 / fan_in)).astype(np.float32)
