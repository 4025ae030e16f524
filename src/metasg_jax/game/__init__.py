"""The Bayesian Stackelberg Markov game: types, observations, rewards, episodes."""

from metasg_jax.game.bsmg import FLGame, GameState, Step
from metasg_jax.game.make import check_rule, make_game, make_post_defense, make_rule
from metasg_jax.game.observations import OBSERVATIONS
from metasg_jax.game.rollout import Played, Player, Trajectory, rollout, rollout_groups
from metasg_jax.game.types import AttackType, Prior, TypeSpec, make_prior, parse_type

__all__ = [
    "OBSERVATIONS",
    "AttackType",
    "FLGame",
    "GameState",
    "Played",
    "Player",
    "Prior",
    "Step",
    "Trajectory",
    "TypeSpec",
    "check_rule",
    "make_game",
    "make_post_defense",
    "make_prior",
    "make_rule",
    "parse_type",
    "rollout",
    "rollout_groups",
]
