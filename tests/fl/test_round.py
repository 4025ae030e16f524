"""One round: what the server receives, and what it makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators import FLTrust, Mean, TrimmedMean
from metasg_jax.attacks import IPM
from metasg_jax.config import FLConfig
from metasg_jax.errors import ConfigError
from metasg_jax.fl import Attackers, Call, Federation, aggregate, collect, cross_entropy, to_unit
from metasg_jax.fl.round import answer_weights
from tests.rounds import honest_round
from tests.worlds import (
    MODEL,
    NUM_CLIENTS,
    PER_CLIENT,
    SAMPLED,
    D,
    N,
    client_data,
    group,
    play,
    start,
)


@jax.jit
def loss_of(w, images, labels):
    return cross_entropy(MODEL, MODEL.unravel(w), to_unit(images), labels)


slope = jax.jit(jax.grad(loss_of))


def step(images, labels, lr=0.3):
    """One step of SGD on all these images."""

    return lr * slope(start(), images, labels)


def owned(data, owner):
    return data.images[data.index[owner]], data.labels[data.index[owner]]


def test_what_the_server_receives():
    got = play(root=True)
    assert got.updates.shape == (N, D) and got.updates.dtype == jnp.float32
    assert got.root_update.shape == (D,)
    np.testing.assert_array_equal(got.weights, np.ones(N))
    np.testing.assert_array_equal(got.client_ids, SAMPLED)
    np.testing.assert_array_equal(got.w_global, start())
    assert got.round == 3


def test_honest_and_root_rows_are_sgd_on_their_own_images():
    """Batches as long as the lists: no matter which order is drawn, all images are in."""
    ids = np.array([4, 7, 0, 2, 6, 1], np.int32)
    got, data = play(ids=ids, root=True, local_steps=1, batch_size=PER_CLIENT), client_data()
    for row, owner in [*zip(got.updates, ids, strict=True), (got.root_update, NUM_CLIENTS)]:
        np.testing.assert_allclose(row, step(*owned(data, owner)), rtol=1e-4, atol=1e-7)


def test_the_root_row_costs_the_others_nothing():
    without, with_root = play(), play(root=True)
    assert without.root_update is None
    np.testing.assert_allclose(with_root.updates, without.updates, rtol=1e-5, atol=1e-7)


def test_a_client_trains_on_its_own_images_only():
    """Client 1 has one image, client 2 three; what lies beyond in their rows is never read."""
    sizes = [PER_CLIENT, 1, 3, *[PER_CLIENT] * (NUM_CLIENTS - 2)]
    data = client_data(sizes=sizes)
    images = data.images.copy()
    images[data.index[1, 1:]] = 0
    images[data.index[2, 3:]] = 0
    before, after = (play(data=d).updates for d in (data, data.replace(images=images)))
    np.testing.assert_array_equal(after, before)
    single = play(data=data, local_steps=1).updates[1]
    one = data.index[1, :1]
    np.testing.assert_allclose(
        single, step(data.images[one], data.labels[one]), rtol=1e-4, atol=1e-7
    )


def test_a_round_is_determined_by_its_key():
    first, again, other = play(seed=5), play(seed=5), play(seed=6)
    np.testing.assert_array_equal(first.updates, again.updates)
    assert (np.abs(first.updates - other.updates).max(axis=1) > 1e-5).all()


def test_the_learning_rate_is_traced_and_scales_a_single_step():
    slow, fast = (play(local_steps=1, local_lr=lr).updates for lr in (0.1, 0.4))
    np.testing.assert_allclose(fast, 4 * slow, rtol=1e-4, atol=1e-7)


def test_clients_take_a_share_of_the_steps():
    """One of three steps, on batches that hold all their images; the server too."""
    share = dict(local_steps=3, steps_share=0.34, batch_size=PER_CLIENT)
    got, data = play(root=True, **share), client_data()
    for row, owner in [*zip(got.updates, SAMPLED, strict=True), (got.root_update, NUM_CLIENTS)]:
        np.testing.assert_allclose(row, step(*owned(data, owner)), rtol=1e-4, atol=1e-7)
    assert np.abs(play(**share | dict(steps_share=1.0)).updates - got.updates).max() > 1e-4


def test_clients_train_on_a_share_of_a_batch():
    """One image of each batch is left: a step on one of their own."""
    got = play(local_steps=1, batch_share=0.01, batch_size=PER_CLIENT)
    images, labels = owned(client_data(), SAMPLED[2])
    each = np.stack([step(images[i : i + 1], labels[i : i + 1]) for i in range(PER_CLIENT)])
    assert np.abs(each - np.asarray(got.updates[2])[None]).max(axis=1).min() < 1e-6


@pytest.mark.parametrize("name", ["steps_share", "batch_share"])
@pytest.mark.parametrize("value", [0.0, 1.5, float("nan")])
def test_shares_of_work_are_in_their_range(name, value):
    with pytest.raises(ConfigError, match=rf"{name} = .*in \(0, 1\]"):
        FLConfig().replace(**{name: value}).check()


def test_jit_equals_eager():
    jitted = play(root=True, seed=4, local_steps=1)
    fl = FLConfig(NUM_CLIENTS, N, batch_size=4, local_steps=1)
    data = jax.tree.map(jnp.asarray, client_data())
    eager, states = collect(
        jax.random.key(4), Federation(MODEL, fl, data),
        Call(jnp.asarray(start()), jnp.asarray(SAMPLED), jnp.int32(3)), Attackers(), Mean(), True,
    )  # fmt: skip
    assert states == ()
    for a, b in zip(jax.tree.leaves(jitted), jax.tree.leaves(eager), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_vmap_over_keys_equals_a_loop():
    attackers = group([IPM(2.0)], 0, 0, 2)
    batched = jax.vmap(lambda seed: play(attackers, seed=seed, local_steps=1).updates)(
        jnp.arange(3)
    )
    loop = np.stack([play(attackers, seed=seed, local_steps=1).updates for seed in range(3)])
    np.testing.assert_allclose(batched, loop, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", [Mean(), TrimmedMean(), FLTrust()], ids=lambda r: type(r).__name__)
def test_the_server_subtracts_the_rules_update(rule):
    got = honest_round(d=D).replace(w_global=start())
    w, state, _ = aggregate(jax.random.key(0), rule, (), got, 0.5)
    update, _, _ = rule(jax.random.key(0), (), got)
    assert state == ()
    np.testing.assert_allclose(w, start() - 0.5 * update, rtol=1e-6)


def test_an_honest_round_lowers_the_loss():
    data, got = client_data(), play()
    w, _, _ = aggregate(jax.random.key(0), Mean(), (), got, 1.0)
    rows = data.index[SAMPLED].ravel()
    images, labels = data.images[rows], data.labels[rows]
    assert loss_of(w, images, labels) < loss_of(start(), images, labels) - 0.01


def test_colluders_are_a_range_of_client_ids():
    one = group([IPM()], 0, first=2, count=3)
    members = one.members(np.array([5, 4, 0, 2, 7, 3], np.int32), np.int32(0))
    np.testing.assert_array_equal(members, [False, True, False, True, False, True])


def test_answers_weigh_the_same_or_by_their_images():
    sizes = jnp.array([3, 50, 7])
    np.testing.assert_array_equal(answer_weights(FLConfig(), sizes), np.ones(3))
    got = answer_weights(FLConfig(weighting="size"), sizes)
    np.testing.assert_array_equal(got, np.array([3, 50, 7], np.float32))
    with pytest.raises(ConfigError, match="weighting = 'sizes': one of auto, equal, size"):
        FLConfig(weighting="sizes").check()


def test_augmented_clients_train_on_other_images_of_the_same_clients():
    plain, moved = (play(augment=how) for how in ("none", "crop_flip"))
    assert not np.allclose(plain.updates, moved.updates)
    np.testing.assert_array_equal(plain.client_ids, moved.client_ids)
    with pytest.raises(ConfigError, match="augment = 'mixup': one of none, crop_flip"):
        FLConfig(augment="mixup").check()  # pyrefly: ignore
