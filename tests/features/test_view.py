"""What a server tells of its clients: from its side alone, and the same whoever is called what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.features import FEATURES, NAMES, ServerData, layout_of
from metasg_jax.features.view import (
    MEMORY,
    NUM_FEATURES,
    begin,
    describe,
    known_columns,
    view_spec,
)  # fmt: skip
from tests.rounds import round_of

N, IN, HIDDEN, CLASSES = 7, 5, 6, 4
RNG = np.random.default_rng(0)
PARAMS = {
    "b1": RNG.normal(size=HIDDEN), "b2": RNG.normal(size=CLASSES),
    "w1": RNG.normal(size=(IN, HIDDEN)), "w2": RNG.normal(size=(HIDDEN, CLASSES)),
}  # fmt: skip
PARAMS = {k: v.astype(np.float32) for k, v in PARAMS.items()}
SHAPES = [(k, v.shape) for k, v in sorted(PARAMS.items())]
SIZE = sum(v.size for v in PARAMS.values())
X = RNG.normal(size=(12, IN)).astype(np.float32)
Y = np.arange(12) % CLASSES


def apply(p, x):
    return jnp.maximum(x @ p["w1"] + p["b1"][None], 0) @ p["w2"] + p["b2"][None]


def unravel(w):
    out, at = {}, 0
    for name, shape in SHAPES:
        size = int(np.prod(shape))
        out[name], at = w[at : at + size].reshape(shape), at + size
    return out


def by_row(w, x):
    return apply(unravel(w), x)


LAYOUT = layout_of(PARAMS, apply, X)
SERVER = ServerData(jnp.asarray(X), jnp.asarray(Y), LAYOUT, by_row)


def round_now(seed=0, root=True, weights=None):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=SIZE) + 0.7 * rng.normal(size=(N, SIZE))
    got = round_of(0.1 * rows, weights, 0.1 * rows.mean(0) if root else None)
    return got.replace(w_global=np.concatenate([PARAMS[k].ravel() for k, _ in SHAPES]))


@functools.partial(jax.jit, static_argnames=("remembers", "without"))
def seen(received, server, memory, remembers=True, without=()):
    return describe(received, server, memory, remembers, without)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)


def test_shapes_are_as_declared_and_all_is_finite():
    view, _ = seen(round_now(), SERVER, begin(10))
    for leaf, spec in zip(jax.tree.leaves(view), jax.tree.leaves(view_spec(N)), strict=True):
        assert leaf.shape == spec.shape and leaf.dtype == spec.dtype
        assert np.isfinite(np.asarray(leaf, np.float32)).all()
    assert view.known.all() and view.present.all()


def test_clients_in_another_order_are_told_the_same():
    order = np.array([3, 1, 0, 6, 5, 2, 4])
    got = round_now()
    turned = got.replace(updates=got.updates[order], client_ids=got.client_ids[order])
    first, after = seen(got, SERVER, begin(10))
    second, other = seen(turned, SERVER, begin(10))
    close(first.clients[order], second.clients)
    close(first.round, second.round)
    close(after.sums, other.sums)


def test_classes_of_other_names_are_told_the_same():
    """The logits, the labels and the last matrix's columns change places together."""
    order = np.array([2, 0, 3, 1])
    got = round_now()

    def renamed(row):
        parts = unravel(np.asarray(row))
        parts = {**parts, "w2": parts["w2"][:, order], "b2": parts["b2"][order]}
        return np.concatenate([parts[k].ravel() for k, _ in SHAPES])

    other = got.replace(
        updates=np.stack([renamed(u) for u in got.updates]),
        w_global=renamed(got.w_global),
        root_update=renamed(got.root_update),
    )
    server = ServerData(jnp.asarray(X), jnp.asarray(np.argsort(order)[Y]), LAYOUT, by_row)
    close(
        seen(got, SERVER, begin(10))[0].clients,
        seen(other, server, begin(10))[0].clients,
    )


def test_updates_of_another_scale_are_told_the_same():
    """All but what they do to images, which depends on it."""
    got = round_now()
    larger = got.replace(updates=3 * got.updates, root_update=3 * got.root_update)
    first, second = (seen(r, SERVER, begin(10), without=("influence",))[0] for r in (got, larger))
    close(first.clients, second.clients)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
def test_a_row_that_is_not_there_changes_nothing_for_others(poison):
    got = round_now(weights=[1, 1, 1, 1, 1, 1, 0])
    rows = np.array(got.updates)
    rows[6] = poison
    first, _ = seen(got, SERVER, begin(10))
    second, memory = seen(got.replace(updates=rows), SERVER, begin(10))
    close(first.clients, second.clients)
    assert not second.present[6] and memory.counts[6] == 0


def test_what_is_missing_is_known_to_be_missing():
    blind = ServerData(None, None, LAYOUT._replace(last=None), None)
    view, _ = seen(round_now(root=False), blind, begin(1), remembers=False)
    known = dict(zip([*FEATURES, "memory"], np.asarray(view.known), strict=True))
    assert known == {
        "norms": True, "cosines": True, "root": False, "classes": False, "inputs": True,
        "root_inputs": False, "influence": False, "memory": False,
    }  # fmt: skip
    of_clients, of_round = known_columns(view.known)
    assert of_clients.shape[0] == view.clients.shape[1] and of_round.shape[0] == view.round.shape[0]
    assert not np.asarray(view.clients)[:, :NUM_FEATURES][
        :, ~np.asarray(of_round[:NUM_FEATURES])
    ].any()


def test_the_memory_is_of_the_client_and_not_of_the_place():
    """A client's remembered features are the mean of its rounds; a newcomer has none."""
    memory = begin(20)
    first, memory = seen(round_now(0), SERVER, memory)
    order = np.array([3, 1, 0, 6, 5, 2, 4])
    again = round_now(1).replace(client_ids=np.where(order == 4, 15, order).astype(np.int32))
    second, memory = seen(again, SERVER, memory)
    remembered = np.asarray(second.clients)[:, 2 * NUM_FEATURES : 3 * NUM_FEATURES]
    close(remembered[0], np.asarray(first.clients)[3, :NUM_FEATURES])
    seen_before = np.asarray(second.clients)[:, -1]
    assert seen_before.tolist() == [1, 1, 1, 1, 1, 1, 0]
    assert memory.counts[15] == 1 and memory.counts[3] == 2


def test_a_federation_without_identities_remembers_nobody():
    view, memory = seen(round_now(), SERVER, begin(1), remembers=False)
    view, memory = seen(round_now(1), SERVER, memory, remembers=False)
    assert not view.known[MEMORY] and not np.asarray(memory.counts).any()
    assert memory.rounds == 2


def test_nothing_but_the_servers_side_is_read():
    """In the game other images, types and targets change no view."""
    from metasg_jax.testing import tiny_game

    game = tiny_game(rule="client_trust", observation="clients", post_defense="none")
    state = jax.jit(lambda g: g.reset(jax.random.key(0), g.prior[0]))(game)
    blind = game.replace(
        validation_x=game.validation_x * 0, test_x=game.test_x * 0, test_y=game.test_y * 0,
        backdoor_weight=9.0, prior=game.prior.replace(probabilities=game.prior.probabilities * 0),
    )  # fmt: skip
    attack = jax.jit(lambda g, s: g.attack(jax.random.key(1), s, g.prior[0], jnp.zeros((1,)))[1])
    told = state.replace(loss=state.loss + 1, previous_action=state.previous_action + 1)
    for a, b in zip(
        jax.tree.leaves(attack(game, state)), jax.tree.leaves(attack(blind, told)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_server_without_images_sees_none_in_the_game():
    """Another set of root images, and another update of the server's, change nothing."""
    from metasg_jax.testing import tiny_game

    game = tiny_game(rule="client_trust", observation="clients:root=off", post_defense="none")
    other = game.replace(root_x=1 - game.root_x, root_y=(game.root_y + 1) % 10)

    @jax.jit
    def look(game):
        state = game.reset(jax.random.key(0), game.prior[0])
        return game.attack(jax.random.key(1), state, game.prior[0], jnp.zeros((1,)))[1]

    view = look(game)
    known = dict(zip([*FEATURES, "memory"], np.asarray(view.known), strict=True))
    missing = {name for name, there in known.items() if not there}
    assert missing == {"root", "root_inputs", "influence"}
    for a, b in zip(jax.tree.leaves(view), jax.tree.leaves(look(other)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_names_are_different():
    assert len(set(NAMES)) == len(NAMES) == NUM_FEATURES
