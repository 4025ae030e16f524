"""Local training of all clients at once against a plain loop over clients and steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.attacks import honest_plan
from metasg_jax.config import FLConfig
from metasg_jax.errors import ConfigError
from metasg_jax.fl import cross_entropy, local_updates, poison
from tests.worlds import CLASSES, IMAGE, MODEL, start

CLIENTS, BATCH = 4, 5
LR = np.float32([0.1, 0.3, 0.5, 0.2])


@jax.jit
def gradient(w, x, y):
    return jax.grad(lambda w: cross_entropy(MODEL, MODEL.unravel(w), x, y))(w)


def train_alone(
    x, y, lr, steps, sign=1.0, proximal=0.0, stealth=0.0, reference=None, radius=np.inf
):
    """SGD on sign CE + proximal / 2 |w - w_g|^2 - stealth cos(w_g - w, reference), projected.

    The cosine acts from the second step on, smoothed by a tenth of the reference's norm.
    """
    w = start().astype(np.float64)
    for step in range(steps):
        g = sign * np.asarray(gradient(jnp.float32(w), x[step], y[step]), np.float64)
        g += proximal * (w - start())
        if stealth and step > 0:
            u, size = start() - w, np.linalg.norm(reference)
            smooth = np.sqrt(u @ u + 0.01 * size**2)
            # the gradient of the cosine in u is minus that in w
            g -= stealth * -(reference / smooth - (u @ reference) * u / smooth**3) / size
        w = w - lr * g
        update = start() - w
        w = start() - update * min(1.0, radius / max(np.linalg.norm(update), 1e-12))
    return start() - w


def batches(steps, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(CLIENTS, steps, BATCH, *IMAGE)).astype(np.float32)
    return x, rng.integers(0, CLASSES, (CLIENTS, steps, BATCH)).astype(np.int32)


def plan_of(steps, uses=(), **fields):
    rows = {name: np.broadcast_to(np.float32(value), CLIENTS) for name, value in fields.items()}
    return honest_plan(CLIENTS, IMAGE, CLASSES, 1.0, steps, uses).replace(lr=LR, **rows)


train = jax.jit(local_updates, static_argnums=(0, 5))


def test_one_step_is_lr_times_the_gradient():
    x, y = batches(1)
    updates = train(MODEL, start(), x, y, plan_of(1))
    for i in range(CLIENTS):
        want = LR[i] * gradient(start(), x[i, 0], y[i, 0])
        np.testing.assert_allclose(updates[i], want, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"sign": -1.0},
        {"proximal": 2.0},
        {"sign": [1.0, -1.0, 0.5, 0.0], "proximal": [0.0, 1.0, 0.0, 3.0]},
        {"radius": [0.05, 1e9, 0.2, np.inf]},
        {"radius": 0.1, "proximal": 1.0, "sign": -1.0},
    ],
    ids=str,
)
def test_three_steps_are_those_of_a_plain_loop(fields):
    x, y = batches(3)
    plan = plan_of(3, ("radius",), **fields)
    updates = train(MODEL, start(), x, y, plan)
    for i in range(CLIENTS):
        own = {name: np.broadcast_to(value, CLIENTS)[i] for name, value in fields.items()}
        want = train_alone(x[i], y[i], LR[i], 3, **own)
        np.testing.assert_allclose(updates[i], want, rtol=2e-3, atol=2e-6)


def test_the_cosine_pulls_as_in_a_plain_loop():
    x, y = batches(3)
    reference = np.random.default_rng(1).normal(size=(CLIENTS, MODEL.num_params))
    plan = plan_of(3, sign=-0.5, stealth=0.5).replace(reference=np.float32(reference))
    updates = train(MODEL, start(), x, y, plan)
    for i in range(CLIENTS):
        want = train_alone(x[i], y[i], LR[i], 3, -0.5, stealth=0.5, reference=reference[i])
        np.testing.assert_allclose(updates[i], want, rtol=2e-3, atol=2e-5)


def test_a_client_with_fewer_steps_stops_early():
    x, y = batches(4)
    steps = np.int32([1, 2, 3, 4])
    updates = train(MODEL, start(), x, y, plan_of(4).replace(steps=steps))
    for i in range(CLIENTS):
        want = train_alone(x[i], y[i], LR[i], steps[i])
        np.testing.assert_allclose(updates[i], want, rtol=2e-3, atol=2e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_updates_stay_within_their_radius(steps):
    x, y = batches(steps)
    free = np.linalg.norm(train(MODEL, start(), x, y, plan_of(steps, ("radius",))), axis=1)
    radius = free * np.float32([0.5, 2.0, 0.1, 1.5])
    held = np.linalg.norm(train(MODEL, start(), x, y, plan_of(steps, radius=radius)), axis=1)
    np.testing.assert_allclose(held[[0, 2]], radius[[0, 2]], rtol=0.05)
    assert (held <= radius * (1 + 1e-5)).all()
    np.testing.assert_allclose(held[[1, 3]], free[[1, 3]], rtol=1e-5)


def test_clients_do_not_mix():
    x, y = batches(2)
    before = train(MODEL, start(), x, y, plan_of(2))
    other = x.copy()
    other[1] = 1 - x[1]
    after = train(MODEL, start(), other, y, plan_of(2))
    np.testing.assert_array_equal(np.delete(after, 1, axis=0), np.delete(before, 1, axis=0))
    assert np.abs(after[1] - before[1]).max() > 1e-4


def test_cross_entropy_is_the_mean_negative_log_likelihood():
    x, y = batches(1)
    params = MODEL.unravel(start())
    logits = np.asarray(MODEL.apply(params, x[0, 0]), np.float64)
    likelihood = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    want = -np.log(likelihood[np.arange(BATCH), y[0, 0]]).mean()
    np.testing.assert_allclose(cross_entropy(MODEL, params, x[0, 0], y[0, 0]), want, rtol=1e-5)


@pytest.mark.parametrize("uses", [(), ("trigger",)])
def test_an_honest_plan_poisons_nothing(uses):
    x, y = batches(2)
    new_x, new_y = poison(jax.random.key(0), plan_of(2, uses), x, y)
    np.testing.assert_array_equal(new_x, x)
    np.testing.assert_array_equal(new_y, y)


@pytest.mark.parametrize("uses", [(), ("trigger",)])
def test_labels_are_mapped_by_each_clients_own_table(uses):
    x, y = batches(2)
    tables = np.int32([[0, 1, 2], [2, 1, 0], [1, 1, 1], [1, 2, 0]])
    plan = plan_of(2, uses).replace(label_map=tables)
    _, mapped = poison(jax.random.key(0), plan, x, y)
    want = [table[labels] for table, labels in zip(tables, y, strict=True)]
    np.testing.assert_array_equal(mapped, want)


class Narrow:
    """The test model, of whose clients only some train side by side."""

    def __init__(self, images_at_once):
        self.images_at_once = images_at_once

    def __getattr__(self, name):
        return getattr(MODEL, name)


# of 3 clients at once, which don't divide the 4, it takes 2
@pytest.mark.parametrize("at_once", [1, BATCH, 2 * BATCH + 1, 3 * BATCH])
def test_clients_in_parts_send_what_they_send_side_by_side(at_once):
    x, y = batches(3)
    plan = plan_of(3, radius=[0.05, 1e9, 0.2, np.inf], proximal=1.0)
    got = train(Narrow(at_once), start(), x, y, plan)
    np.testing.assert_allclose(got, train(MODEL, start(), x, y, plan), rtol=1e-5, atol=1e-7)


def test_tensorfloat32_changes_nothing_on_a_cpu_and_bfloat16_costs_digits():
    x, y = batches(3)
    full = train(MODEL, start(), x, y, plan_of(3))
    np.testing.assert_array_equal(
        train(MODEL, start(), x, y, plan_of(3), "tensorfloat32"),
        full,
    )
    half = train(MODEL, start(), x, y, plan_of(3), "bfloat16")
    assert half.dtype == jnp.float32
    error = np.linalg.norm(half - full, axis=1) / np.linalg.norm(full, axis=1)
    assert (error > 1e-4).all() and (error < 0.05).all()


def test_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match=r"precision = 'half': one of float32"):
        dataclasses.replace(FLConfig(), precision="half").check()
