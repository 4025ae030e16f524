"""Attackers who know the defender: they see the round, look through its decision, and answer it.

A responder is ``(key, game, state, xi, defender, decide) -> (received, obs, state)``, in
the place of ``game.attack``: what the attack of type ``xi`` sends is a matter of what the defender
would make of it. What it knows is a :class:`Knowledge`; each part can be taken away.
"""

from metasg_jax.responders.gradient import Gradient
from metasg_jax.responders.knowledge import Knowledge
from metasg_jax.responders.looking import MIXES, Looking, mixtures
from metasg_jax.responders.make import RESPONDERS, make_responder

__all__ = [
    "MIXES",
    "RESPONDERS",
    "Gradient",
    "Knowledge",
    "Looking",
    "make_responder",
    "mixtures",
]
