"""Limited bandwidth: error feedback loses nothing, and the game is bound to the wire."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.compressors import COMPRESSORS
from metasg_jax.config import FLConfig
from metasg_jax.errors import UnknownNameError
from metasg_jax.fl.simulate import simulate, start
from metasg_jax.fl.wire import bytes_a_round, init_unsent, transmit
from metasg_jax.game import make_game
from metasg_jax.testing import tiny_game
from tests.rounds import honest_round, with_rows

N, CLIENTS, D = 10, 25, 40
NARROW = sorted(set(COMPRESSORS) - {"none"})
ROUNDS = 6

every_narrow = pytest.mark.parametrize("name", NARROW)


def settings(name):
    return FLConfig(num_clients=CLIENTS, num_sampled=N, compression=name)


def rounds():
    """Rounds of some of the clients, with the rows that they would like to send."""
    rng = np.random.default_rng(0)
    for seed in range(ROUNDS):
        ids = rng.choice(CLIENTS, N, replace=False).astype(np.int32)
        yield honest_round(seed, N, D).replace(client_ids=ids)


def over_rounds(name, change=lambda t, got: got):
    """(sums of what clients wanted to send, and of what was read, f64[CLIENTS, D], unsent)."""
    fl = settings(name)
    step = jax.jit(lambda key, unsent, got: transmit(key, fl, unsent, got))
    unsent = init_unsent(fl, D)
    wanted, read = np.zeros((CLIENTS, D)), np.zeros((CLIENTS, D))
    for t, got in enumerate(rounds()):
        out, unsent = step(jax.random.key(t), unsent, change(t, got))
        wanted[got.client_ids] += got.updates
        read[got.client_ids] += out.updates
    return wanted, read, np.asarray(unsent)


@every_narrow
def test_all_that_was_sent_and_the_memory_add_up_to_all_updates(name):
    wanted, read, unsent = over_rounds(name)
    assert not np.allclose(wanted, read, atol=1e-3)
    np.testing.assert_allclose(read + unsent, wanted, atol=1e-4)


@every_narrow
def test_who_is_not_called_keeps_its_memory(name):
    fl, got = settings(name), next(rounds())
    before = np.random.default_rng(1).normal(size=(CLIENTS, D)).astype(np.float32)
    _, after = transmit(jax.random.key(0), fl, jnp.asarray(before), got)
    others = np.setdiff1d(np.arange(CLIENTS), got.client_ids)
    np.testing.assert_array_equal(np.asarray(after)[others], before[others])


@every_narrow
def test_a_client_that_sent_nonsense_can_be_heard_again(name):
    def first_is_nan(t, got):
        return with_rows(got, 0, np.nan) if t == 0 else got

    _, _, unsent = over_rounds(name, first_is_nan)
    assert np.isfinite(unsent).all()


def test_without_compression_nothing_is_kept_or_changed():
    fl, got = settings("none"), next(rounds())
    assert init_unsent(fl, D) == ()
    assert transmit(None, fl, (), got) == (got, ())


def test_bytes_of_a_round():
    fl = FLConfig(num_sampled=10)
    assert bytes_a_round(fl, 1000) == (40_000, 40_000)
    assert bytes_a_round(fl.replace(compression="int8"), 1001) == (10 * 1005, 40_040)
    assert bytes_a_round(fl.replace(compression="top_k:share=0.1"), 1000) == (5250, 40_000)
    assert bytes_a_round(fl.replace(compression="sign"), 1000) == (1290, 40_000)


def game_of(name):
    fl = FLConfig(
        num_clients=8, num_sampled=4, batch_size=4, horizon=3, local_lr=0.5, compression=name
    )
    return tiny_game(("none", "ipm:scale=2@0.5"), fl, rule="median", post_defense="none")


@every_narrow
def test_in_the_game_honest_and_hostile_rows_are_what_the_wire_can_carry(name):
    game, rows = game_of(name), []
    xi, nothing = game.prior[1], jnp.zeros(game.attacker_action_size)

    @jax.jit
    def play(state, t):
        received, after = game.answer(jax.random.key(t), state, xi, nothing)
        # the next round calls the same clients, so that what they kept back is read
        return received.updates, after.replace(client_ids=state.client_ids)

    state = game.reset(jax.random.key(0), xi)
    for t in range(2):
        updates, state = play(state, t)
        rows += list(np.asarray(updates))
    unsent = np.asarray(state.unsent)
    assert unsent.shape == (8, len(rows[0])) and unsent.any()
    for row in rows:
        assert row.any()
        if name == "sign":
            assert len(np.unique(np.abs(row))) == 1
        elif name == "int8":
            assert len(np.unique(row)) <= 255
        else:
            share = COMPRESSORS[name]().share
            assert (row != 0).sum() <= max(1, round(share * len(row)))


def test_a_simulation_goes_over_the_wire_too():
    game = game_of("sign")
    run = start(jax.random.key(0), game.model, game.fl, game.rule)
    run = simulate(jax.random.key(1), run, game.model, game.fl, game.data, game.rule, num_rounds=2)
    assert run.unsent.shape == (8, len(run.w)) and jnp.isfinite(run.w).all()
    plain = game.fl.replace(compression="none")
    assert start(jax.random.key(0), game.model, plain, game.rule).unsent == ()


def test_a_game_refuses_what_is_no_compressor():
    with pytest.raises(UnknownNameError, match="compressor 'gzip'"):
        make_game(fl=FLConfig(compression="gzip"))
