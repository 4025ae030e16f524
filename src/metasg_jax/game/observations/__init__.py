"""What the players see: the defender's observations, one file each, and the attacker's.

An observation is a static object. ``spec(model, fl, action_size)`` says what it gives,
``init(model, fl, action_size)`` is its memory before the first round, and ``observation(model,
memory, received, root, loss, previous_action, progress) -> (obs, memory)`` sees a round before the
defender acts. The memory is part of the game's state.
"""

from metasg_jax.game.observations.attacker import (
    ATTACKER_OBSERVATION_SIZE,
    attacker_observation,
    attacker_projection,
)
from metasg_jax.game.observations.clients import ClientsObservation, server_data
from metasg_jax.game.observations.inversion import InversionObservation
from metasg_jax.game.observations.paper import PaperObservation
from metasg_jax.game.observations.reservoir import ReservoirObservation
from metasg_jax.game.observations.statistics import StatisticsObservation
from metasg_jax.registry import Registry

OBSERVATIONS = Registry(
    "observation",
    {
        "clients": ClientsObservation,
        "statistics": StatisticsObservation,
        "reservoir": ReservoirObservation,
        "inversion": InversionObservation,
        "paper": PaperObservation,
    },
)

__all__ = [
    "ATTACKER_OBSERVATION_SIZE",
    "OBSERVATIONS",
    "ClientsObservation",
    "InversionObservation",
    "PaperObservation",
    "ReservoirObservation",
    "StatisticsObservation",
    "attacker_observation",
    "attacker_projection",
    "server_data",
]
