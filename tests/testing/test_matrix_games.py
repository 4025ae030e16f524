"""Matrix games: their known answers, found again by brute force in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.game.rollout import Player, init_normalizer
from metasg_jax.policies import Categorical
from metasg_jax.testing import commitment_game, exact_values, matrix_answer, matrix_game
from tests.testing.players import sigmoid


def leader_grid(game, points=4001):
    """The leader's best first-row probability and value, ties in its favour, on a grid."""
    r_d, r_a = (
        np.asarray(a, np.float64)[0, 0]
        for a in (game.prior.types.reward_D, game.prior.types.reward_A)
    )
    p = np.linspace(0, 1, points)
    mix = np.stack([p, 1 - p], 1)
    follower, leader = mix @ r_a, mix @ r_d
    allowed = follower >= follower.max(axis=1, keepdims=True) - 1e-7
    values = np.where(allowed, leader, -np.inf).max(axis=1)
    return p[values.argmax()], values.max()


@pytest.mark.parametrize(
    ("game", "p", "value", "nash"),
    [(matrix_game, 0.375, 0.1, 0.1), (commitment_game, 0.5, 3.5 / 4, 2 / 4)],
)
def test_matrix_games(game, p, value, nash):
    answer = matrix_answer(game())
    np.testing.assert_allclose(
        (answer.first_row, answer.value, answer.nash), (p, value, nash), atol=1e-6
    )
    np.testing.assert_allclose(leader_grid(game()), (p, value), atol=1e-6)
    np.testing.assert_allclose(sigmoid(-answer.logit), answer.first_row, atol=1e-9)


def test_matrix_answers_of_random_games():
    rng = np.random.default_rng(0)
    for _ in range(30):
        game = matrix_game(*rng.normal(size=(2, 2, 2)))
        grid_p, grid_value = leader_grid(game)
        answer = matrix_answer(game)
        # the grid misses commitments of indifference by up to a cell
        assert grid_value <= answer.value + 1e-6
        assert abs(answer.value - grid_value) < 2e-3 or abs(answer.first_row - grid_p) < 1e-3


def test_a_repeated_matrix_game_is_worth_its_rounds():
    once, twice = matrix_game(), matrix_game(horizon=2)
    defender, attacker = (
        Player({"Dense_0": {"kernel": jnp.full((1, 1), x)}}, init_normalizer(1), Categorical(2))
        for x in (0.3, -0.2)
    )
    one, two = (exact_values(g, g.prior[0], defender, attacker, 0.5)[0] for g in (once, twice))
    np.testing.assert_allclose(two, 1.5 * one, rtol=1e-6)
