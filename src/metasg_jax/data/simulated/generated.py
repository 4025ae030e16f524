"""New images of the root's labels: conditional flow matching (Lipman et al., 2023) on them.

A network learns the velocity that carries noise to images along straight lines, given the label;
sampling follows it from noise. It is trained on augmented root images, so it can't know more than
these: it mixes what they show.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from metasg_jax.data.simulated.augmented import augmented
from metasg_jax.data.simulated.repeated import balanced

STEPS, BATCH = 3000, 256
_SHOWN, _WIDTH, _BLOCKS, _FREQUENCIES = 20_000, 512, 3, 8
_RATE, _EMA = 1e-3, 0.998
_SAMPLING_STEPS = 30
_LAST = 0.05
"""The rest of the way from which on the velocity is no longer divided by less."""


class Clean(nn.Module):
    """Clean images f32[B, P] behind points f32[B, P] at times f32[B], for labels f32[B, C].

    Images fill few of the P directions and noise fills all of them: a network that tells the
    velocity must carry the noise through, one that tells the image can forget it.
    """

    width: int = _WIDTH
    blocks: int = _BLOCKS

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, labels: jax.Array) -> jax.Array:
        angles = t[:, None] * (jnp.pi * 2.0 ** jnp.arange(_FREQUENCIES))[None]
        about = jnp.concatenate([jnp.sin(angles), jnp.cos(angles), labels], axis=-1)
        about = nn.silu(nn.Dense(self.width)(about))
        h = nn.Dense(self.width)(x)
        for _ in range(self.blocks):
            inner = nn.silu(nn.LayerNorm()(h) * (1 + nn.Dense(self.width)(about)))
            inner = nn.silu(nn.Dense(self.width)(inner) + nn.Dense(self.width)(about))
            h = h + nn.Dense(self.width, kernel_init=nn.initializers.zeros)(inner)
        return nn.Dense(x.shape[-1])(nn.LayerNorm()(h))


def generated(
    rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, count: int, factor: int
) -> tuple[np.ndarray, np.ndarray]:
    """See :mod:`metasg_jax.data.simulated`. Minutes for grey images of 14 x 14 on two cores."""
    shown, shown_y = augmented(rng, images, labels, _SHOWN, factor)
    kinds, shape = int(labels.max()) + 1, shown.shape[1:]
    x = jnp.asarray(shown.reshape(len(shown), -1), jnp.float32) / 127.5 - 1
    key_train, key_sample = jax.random.split(jax.random.key(int(rng.integers(2**31))))
    params = train(key_train, x, jnp.asarray(shown_y), kinds, STEPS, BATCH)
    wanted = labels[balanced(rng, labels, count)]
    made = [
        sample(jax.random.fold_in(key_sample, i), params, jnp.asarray(part), kinds, x.shape[1])
        for i, part in enumerate(np.array_split(wanted, -(-count // 1000)))
    ]
    values = np.rint((np.concatenate([np.asarray(part) for part in made]) + 1) * 127.5)
    return np.clip(values, 0, 255).astype(np.uint8).reshape(count, *shape), wanted


def train(key: jax.Array, x: jax.Array, y: jax.Array, kinds: int, steps: int, batch: int) -> Any:
    """Parameters of :class:`Velocity`, averaged over the last steps.

    Args:
        key: consumed.
        x: f32[M, P] in [-1, 1].
        y: i32[M].
        kinds: C.
        steps: of Adam.
        batch: images a step.
    """
    key_init, key_steps = jax.random.split(key)
    network = Clean()
    params = network.init(
        key_init, x[:1], jnp.zeros((1,), jnp.float32), jnp.zeros((1, kinds), jnp.float32)
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, steps, 0.05))

    @jax.jit
    def run(key, x, y, params):
        def loss(params, key):
            key_pick, key_noise, key_time = jax.random.split(key, 3)
            chosen = jax.random.randint(key_pick, (batch,), 0, len(x))
            noise = jax.random.normal(key_noise, (batch, x.shape[1]), jnp.float32)
            # times near the middle carry most of what is to be learned
            t = nn.sigmoid(jax.random.normal(key_time, (batch,), jnp.float32))
            target = x[chosen] - noise
            at = noise + t[:, None] * target
            velocity = _velocity(network, params, at, t, jax.nn.one_hot(y[chosen], kinds))
            return jnp.mean((velocity - target) ** 2)

        def step(carry, i):
            params, average, opt_state = carry
            gradient = jax.grad(loss)(params, jax.random.fold_in(key, i))
            updates, opt_state = optimizer.update(gradient, opt_state)
            params = optax.apply_updates(params, updates)
            average = optax.incremental_update(params, average, 1 - _EMA)
            return (params, average, opt_state), None

        start = (params, params, optimizer.init(params))
        return jax.lax.scan(step, start, jnp.arange(steps))[0][1]

    return run(key_steps, x, y, params)


def _velocity(network: Clean, params: Any, x: jax.Array, t: jax.Array, labels: jax.Array) -> Any:
    """Along the straight line to the clean image; close to it the way is cut, not divided by 0."""
    clean: Any = network.apply(params, x, t, labels)
    return (clean - x) / jnp.maximum(1 - t, _LAST)[:, None]


def sample(key: jax.Array, params: Any, labels: jax.Array, kinds: int, size: int) -> jax.Array:
    """Images f32[B, P] in [-1, 1], or a little outside, of labels i32[B]; ``key`` is consumed."""
    network, given = Clean(), jax.nn.one_hot(labels, kinds)

    @jax.jit
    def run(key, params, given):
        def velocity(x, t) -> Any:
            return _velocity(network, params, x, jnp.full((len(given),), t, jnp.float32), given)

        def step(x, i):  # the midpoint rule
            half = velocity(x, i / _SAMPLING_STEPS)
            middle = x + half / (2 * _SAMPLING_STEPS)
            return x + velocity(middle, (i + 0.5) / _SAMPLING_STEPS) / _SAMPLING_STEPS, None

        noise = jax.random.normal(key, (len(given), size), jnp.float32)
        return jax.lax.scan(step, noise, jnp.arange(_SAMPLING_STEPS))[0]

    return run(key, params, given)
