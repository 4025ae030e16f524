"""Attack-adaptive aggregation (Wan and Chen, 2021): the nearest published idea, as a rival.

arXiv 2102.05257: attention over the set of updates, trained on simulated attacks; one network a
model and task. Each parameter tensor of a round's updates is reduced to its coordinates along their
own ``COMPONENTS`` first singular directions; a query, at first the median, attends to the updates
and is replaced by their weighted mean, ``LOOPS`` times. The loss is the absolute distance of the
last query to the mean of the honest. ``python experiments/attack_adaptive.py`` trains it for the
game card on worlds drawn as the defender's are, and writes ``docs/results/trust/rival.npz``.
"""

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.presence import count_rejected, present_rows
from metasg_jax.config import FLConfig, GameConfig, RunConfig
from metasg_jax.data import load
from metasg_jax.data.simulated import Simulated
from metasg_jax.features.base import ServerData
from metasg_jax.game.draw import draw_game
from metasg_jax.game.make import simulated_clients
from metasg_jax.game.observations import server_data
from metasg_jax.numerics import weighted_sum
from metasg_jax.presets.cpu import TRUST
from metasg_jax.programs.device import enable_compilation_cache
from metasg_jax.struct import field
from metasg_jax.types import Params

OUT = Path("docs/results/trust/rival.npz")
COMPONENTS, HIDDEN, LOOPS, SCALE, LEAST = 6, 21, 5, 10.0, 0.01
WORLDS, STEPS, BATCH, RATE = 24, 6000, 256, 1e-3


class Key(nn.Module):
    """The encoder of queries and keys: two layers without biases, so that scale does not matter."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """f32[.., HIDDEN] of length 1."""
        y = nn.leaky_relu(nn.Dense(2 * x.shape[-1], use_bias=False)(x), 0.01)
        y = nn.Dense(HIDDEN, use_bias=False)(y)
        # who sends nothing has no direction, and the root no derivative there
        return y / jnp.sqrt(jnp.sum(y**2, axis=-1, keepdims=True) + 1e-12)


def project(updates: jax.Array, server: ServerData) -> jax.Array:
    """Coordinates f32[n, COMPONENTS x tensors] of rows along their own singular directions.

    Signs of such directions are arbitrary: here the rows' sum is positive along each.
    """
    layout = server.layout
    spans = [*(s for layer in layout.layers for s in layer), *layout.rest]
    parts = []
    for span in spans:
        rows = updates[:, span.start : span.stop]
        values, vectors = jnp.linalg.eigh(rows @ rows.T)
        found = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[None]
        found = found[:, ::-1][:, :COMPONENTS]
        found = jnp.pad(found, ((0, 0), (0, COMPONENTS - found.shape[1])))
        parts.append(found * jnp.where(found.sum(axis=0) < 0, -1.0, 1.0)[None])
    return jnp.concatenate(parts, axis=1)


def attend(params: Params, x: jax.Array, present: jax.Array) -> jax.Array:
    """Weights f32[n] of sum 1 over the present rows of f32[n, k]."""
    keys = Key().apply({"params": params}, x)
    query = jnp.nanmedian(jnp.where(present[:, None], x, jnp.nan), axis=0)
    for _ in range(LOOPS):
        logits = jnp.where(present, SCALE * keys @ Key().apply({"params": params}, query), -1e9)
        weights = jax.nn.softmax(logits)
        weights = jnp.where(weights > LEAST, weights, 0.0)
        query = weights @ x
    return weights / weights.sum()


class AttackAdaptive(AggregatorBase):
    """The rule.

    Attributes:
        params: of :class:`Key`.
        server: static parts are read: where the tensors lie.
    """

    params: Params = None
    server: ServerData = field(default=None)

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {weights: f32[n], rejected: i32[]})."""
        updates, present = present_rows(received)
        weights = attend(self.params, project(updates, self.server), present)
        info = {"weights": weights, "rejected": count_rejected(received, present)}
        return weighted_sum(weights, updates), state, info


@jax.jit
def play(key, game):
    """Projected rows and who was malicious, [K H, n, ..], while a told filter plays."""
    nothing = jnp.zeros((game.attacker_action_size,))
    server = server_data(game.model, (game.root_x, game.root_y))

    def episode(_, i):
        xi = game.prior[i]
        key_reset, key_rounds = jax.random.split(jax.random.fold_in(key, i))

        def step(state, t):
            key_attack, key_defend = jax.random.split(jax.random.fold_in(key_rounds, t))
            malicious = game.malicious(state, xi)
            received, _, state = game.attack(key_attack, state, xi, nothing)
            action = jnp.concatenate([jnp.where(malicious, -1.0, 1.0), jnp.array([0, -1.0, -1.0])])
            state, _ = game.defend(key_defend, state, xi, received, action)
            updates, _ = present_rows(received)
            return state, (project(updates, server), malicious)

        return None, jax.lax.scan(step, game.reset(key_reset, xi), jnp.arange(game.horizon))[1]

    _, found = jax.lax.scan(episode, None, jnp.arange(len(game.prior), dtype=jnp.int32))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found)


def collect() -> tuple[np.ndarray, np.ndarray]:
    """Rounds of :data:`WORLDS` federations of the card's shapes, drawn as the defender's are."""
    game = GameConfig(dataset="mnist", pool=2, hidden=(64,), num_root=100, **TRUST)
    base = RunConfig(game, FLConfig(horizon=60), clients="augmented")
    dataset, found = load(base.game.dataset), []
    for number in range(WORLDS):
        seed = 900_000 + number
        kind = dataclasses.replace(base, game=dataclasses.replace(base.game, seed=seed))
        simulated: Simulated | None
        simulated, _ = simulated_clients(kind.game, dataset, "augmented", 4000)
        game = draw_game(np.random.default_rng(seed), kind, dataset, simulated)
        found.append(jax.tree.map(np.asarray, play(jax.random.key(number), game)))
        print(f"world {number + 1}/{WORLDS}", flush=True)
    x, malicious = (np.concatenate(parts) for parts in zip(*found, strict=True))
    sane = np.isfinite(x).all(axis=(1, 2)) & ~malicious.all(axis=1)
    return x[sane], malicious[sane]


def train(x: np.ndarray, malicious: np.ndarray) -> Params:
    """Adam on the absolute distance to the mean of the honest, in units of the round's median."""
    norms = np.linalg.norm(x, axis=2)
    scale = np.median(norms, axis=1)
    # rounds in which most send nothing have no unit
    sane = norms.max(axis=1) < 100 * scale
    x = jnp.asarray(x[sane] / scale[sane, None, None])
    honest = jnp.asarray(~malicious[sane])
    params = Key().init(jax.random.key(0), x[0])["params"]
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    def loss(params, x, honest):
        def one(x, honest):
            there = jnp.ones(honest.shape, bool)
            goal = honest / honest.sum()
            return jnp.abs((attend(params, x, there) - goal) @ x).mean()

        return jax.vmap(one)(x, honest).mean()

    @jax.jit
    def steps(params, opt, key):
        def step(carry, key):
            params, opt = carry
            picked = jax.random.randint(key, (BATCH,), 0, len(x))
            value, grad = jax.value_and_grad(loss)(params, x[picked], honest[picked])
            updates, opt = optimizer.update(grad, opt)
            return (optax.apply_updates(params, updates), opt), value

        return jax.lax.scan(step, (params, opt), jax.random.split(key, 500))

    opt = optimizer.init(params)
    for i in range(STEPS // 500):
        (params, opt), values = steps(params, opt, jax.random.key(i))
        print(f"step {500 * (i + 1)}/{STEPS}: loss {values[-100:].mean():.4f}", flush=True)
    return params


def load_rival(game) -> AttackAdaptive:
    """The trained rule for a game of the shapes that it was trained on."""
    flat = np.load(OUT)
    params = {name: {"kernel": jnp.asarray(flat[name])} for name in flat.files}
    return AttackAdaptive(params, server_data(game.model, (game.root_x, game.root_y)))


if __name__ == "__main__":
    enable_compilation_cache()
    trained = train(*collect())
    np.savez(OUT, **{name: np.asarray(layer["kernel"]) for name, layer in trained.items()})
