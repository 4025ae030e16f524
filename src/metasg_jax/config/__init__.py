"""Settings: frozen dataclasses. Counts and kinds are static; floats are traced, so sweeps are free.

A static field recompiles when it changes; a float does not. ``check`` methods raise
:class:`~metasg_jax.errors.ConfigError` and name the field; they are called where settings enter
(``make_game``, ``init_state``, the command line), because a traced float can't be compared.
"""

from metasg_jax.config.adaptation import Adaptation
from metasg_jax.config.fl import FLConfig
from metasg_jax.config.game import GameConfig
from metasg_jax.config.meta import MetaConfig
from metasg_jax.config.run import RunConfig
from metasg_jax.config.teach import TeachConfig

__all__ = [
    "Adaptation",
    "FLConfig",
    "GameConfig",
    "MetaConfig",
    "RunConfig",
    "TeachConfig",
]
