"""metasg_jax: meta-Stackelberg learning for robust federated learning, in JAX.

In the order in which they are needed: a defender for a server of one's own; rules on models of
one's own; a simulated federation; the game and its learners. Everything else may be imported from
its module, and may change.
"""

from metasg_jax.aggregators import AGGREGATORS
from metasg_jax.attacks import BACKDOOR, UNTARGETED
from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig
from metasg_jax.data import load
from metasg_jax.defender import Defender, load_defender
from metasg_jax.evaluation import evaluate
from metasg_jax.fl import next_model, receive, simulate
from metasg_jax.game import FLGame, make_game, rollout
from metasg_jax.game.make import make_rule
from metasg_jax.learning import (
    MetaSGState,
    init_state,
    meta_rl_step,
    meta_sl_step,
    pretrain,
)

__version__ = "0.2.0"

__all__ = [
    "AGGREGATORS",
    "BACKDOOR",
    "UNTARGETED",
    "Defender",
    "FLConfig",
    "FLGame",
    "GameConfig",
    "MetaConfig",
    "MetaSGState",
    "RunConfig",
    "evaluate",
    "init_state",
    "load",
    "load_defender",
    "make_game",
    "make_rule",
    "meta_rl_step",
    "meta_sl_step",
    "next_model",
    "pretrain",
    "receive",
    "rollout",
    "simulate",
]
