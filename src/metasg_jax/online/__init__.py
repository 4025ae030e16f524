"""Adaptation online, without the truth.

A Psi is ``begin(key, own, meta) -> state`` and, after each block of rounds, ``psi(key, state, own,
meta, current, view, belief) -> (candidate, state, info)``:

    own: the server's own world, an :class:`OwnWorld`
    meta: the policy of the pre-training
    current: the policy that would play on: the one that has played the block, or the meta policy,
        where a guard has put it back
    view: the block as the server saw it, an :class:`OnlineView`
    belief: f32[K] over the own world's types

``adapts`` is false where there is never a candidate; ``explores`` says whether its policy has to
sample its actions during the run.
"""

from metasg_jax.online.belief import Belief, learn_belief
from metasg_jax.online.frozen import Frozen, Sampled
from metasg_jax.online.guard import Verdict, look_ahead
from metasg_jax.online.imagined import Imagined
from metasg_jax.online.mixture import Mixture
from metasg_jax.online.planned import Planned
from metasg_jax.online.real_run import RealRun, Truth, begin_run, play_block
from metasg_jax.online.run import (
    Block,
    Hidden,
    Server,
    Standing,
    begin,
    final_metrics,
    next_block,
    play_adapting,
)
from metasg_jax.online.trajectory import RealTrajectory
from metasg_jax.online.view import (
    OnlineView,
    OwnWorld,
    ServerState,
    attackers_of,
    own_world,
    server_side,
)
from metasg_jax.registry import Registry

PSI = Registry(
    "psi",
    {
        "frozen": Frozen,
        "sampled": Sampled,
        "trajectory": RealTrajectory,
        "mixture": Mixture,
        "imagined": Imagined,
        "planned": Planned,
    },
)

__all__ = [
    "PSI",
    "Belief",
    "Block",
    "Frozen",
    "Hidden",
    "Imagined",
    "Mixture",
    "OnlineView",
    "OwnWorld",
    "Planned",
    "RealRun",
    "RealTrajectory",
    "Sampled",
    "Server",
    "ServerState",
    "Standing",
    "Truth",
    "Verdict",
    "attackers_of",
    "begin",
    "begin_run",
    "final_metrics",
    "learn_belief",
    "look_ahead",
    "next_block",
    "own_world",
    "play_adapting",
    "play_block",
    "server_side",
]
