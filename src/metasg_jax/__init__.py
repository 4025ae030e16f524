"""metasg_jax: meta-Stackelberg learning for robust federated learning, in JAX."""

from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig
from metasg_jax.defender import Defender, load_defender
from metasg_jax.evaluation import evaluate
from metasg_jax.game import FLGame, make_game, rollout
from metasg_jax.learning import (
    MetaSGState,
    init_state,
    meta_rl_step,
    meta_sl_step,
    pretrain,
)

__version__ = "0.1.0"

__all__ = [
    "Defender",
    "FLConfig",
    "FLGame",
    "GameConfig",
    "MetaConfig",
    "MetaSGState",
    "RunConfig",
    "evaluate",
    "init_state",
    "load_defender",
    "make_game",
    "meta_rl_step",
    "meta_sl_step",
    "pretrain",
    "rollout",
]
