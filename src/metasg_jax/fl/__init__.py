"""The federated-learning simulator: sampling, local training of all clients at once, one round."""

from metasg_jax.fl.client import cross_entropy, local_updates, poison
from metasg_jax.fl.colluders import Attackers, Colluders
from metasg_jax.fl.data import ClientData, to_unit
from metasg_jax.fl.federation import Call, Federation
from metasg_jax.fl.receive import next_model, receive
from metasg_jax.fl.round import aggregate, collect
from metasg_jax.fl.sampling import sample_clients, sample_positions
from metasg_jax.fl.simulate import SimulationState, simulate, start

__all__ = [
    "Attackers",
    "Call",
    "ClientData",
    "Colluders",
    "Federation",
    "SimulationState",
    "aggregate",
    "collect",
    "cross_entropy",
    "local_updates",
    "next_model",
    "poison",
    "receive",
    "sample_clients",
    "sample_positions",
    "simulate",
    "start",
    "to_unit",
]
