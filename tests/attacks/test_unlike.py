"""Colluders that send unlike vectors: same norms, directions of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.attacks.base import unlike
from metasg_jax.errors import ConfigError
from metasg_jax.fl import Attackers, Call, Federation, collect
from metasg_jax.game import parse_type
from metasg_jax.testing import tiny_game

ROWS = jnp.tile(jax.random.normal(jax.random.key(0), (1, 4000)), (6, 1))


def cosines(rows):
    unit = np.asarray(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
    return (unit @ unit.T)[np.tril_indices(len(unit), -1)]


@pytest.mark.parametrize(("noise", "cosine"), [(0.5, 0.8), (1.0, 0.5), (2.0, 0.2)])
def test_cosines_are_those_that_are_documented(noise, cosine):
    """1 / (1 + noise^2), of the whole and of a part that holds little of it."""
    small = ROWS.at[:, :2000].multiply(0.01)
    rows = unlike(jax.random.key(1), small, jnp.float32(noise))
    for part in (rows, rows[:, :2000]):
        np.testing.assert_allclose(cosines(part), cosine, atol=0.15)
    np.testing.assert_allclose(
        np.linalg.norm(rows, axis=1), np.linalg.norm(small, axis=1), rtol=1e-5
    )


def test_without_noise_nothing_changes_and_a_row_of_zeros_stays():
    np.testing.assert_array_equal(unlike(jax.random.key(1), ROWS, jnp.float32(0.0)), ROWS)
    zeros = jnp.zeros((2, 5))
    np.testing.assert_array_equal(unlike(jax.random.key(1), zeros, jnp.float32(1.0)), zeros)


def sent(text):
    game = tiny_game(types=("none", text))
    xi = game.prior[1]
    ids = jnp.arange(game.fl.num_sampled, dtype=jnp.int32)
    state = game.reset(jax.random.key(0), xi)
    groups = game.prior.colluders(xi)
    actions = game.prior.split_action(jnp.zeros(game.prior.action_size))
    received, _ = jax.jit(  # op by op it takes longer than to compile
        lambda state: collect(
            jax.random.key(1), Federation(game.model, game.fl, game.data),
            Call(state.w, ids, state.round), Attackers(groups, state.attack_states, actions),
            game.rule, False,
        )
    )(state)  # fmt: skip
    count = int(xi.num_untargeted + xi.num_backdoor)
    return np.asarray(received.updates), min(count, len(ids))


@pytest.mark.parametrize("attack", ["ipm:scale=2", "alie:z=1.5"])
def test_only_colluders_are_noisy(attack):
    plain, count = sent(f"{attack}@0.4")
    noisy, _ = sent(f"{attack},noise=1@0.4")
    assert count >= 2
    np.testing.assert_array_equal(plain[count:], noisy[count:])
    assert np.allclose(cosines(plain[:count]), 1, atol=1e-4)
    assert (cosines(noisy[:count]) < 0.9).all()


def test_a_noise_below_zero_is_refused():
    with pytest.raises(ConfigError, match="noise"):
        parse_type("ipm:noise=-1@0.2", 10)
