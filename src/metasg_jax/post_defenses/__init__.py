"""Post-training defences: one file each. They act on a copy, never on the model in training.

``calibrate(model, deployed, root_x, root_y)`` reads clean root images; the call turns one
:class:`~metasg_jax.types.Deployed` model into another, whose bounds are never looser. +1 of every
knob is exactly no defence. So defences compose: ``prune+fine_tune`` is a :class:`Composed` one.
"""

from metasg_jax.post_defenses.composed import Composed
from metasg_jax.post_defenses.fine_tune import FineTune
from metasg_jax.post_defenses.guarded_prune import GuardedPrune
from metasg_jax.post_defenses.learned_clip import LearnedClip
from metasg_jax.post_defenses.neuron_clip import NeuronClip
from metasg_jax.post_defenses.none import NoDefense, undefended
from metasg_jax.post_defenses.prune import Prune
from metasg_jax.registry import Registry

POST_DEFENSES = Registry(
    "post-training defence",
    {
        "none": NoDefense,
        "neuron_clip": NeuronClip,
        "learned_clip": LearnedClip,
        "prune": Prune,
        "guarded_prune": GuardedPrune,
        "fine_tune": FineTune,
    },
)

__all__ = [
    "POST_DEFENSES",
    "Composed",
    "FineTune",
    "GuardedPrune",
    "LearnedClip",
    "NeuronClip",
    "NoDefense",
    "Prune",
    "undefended",
]
