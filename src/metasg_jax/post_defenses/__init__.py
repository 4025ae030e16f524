"""Post-training defences: one file each. They act on a copy, never on the model in training.

``calibrate(model, deployed, root_x, root_y)`` reads clean root images; the call turns one
:class:`~metasg_jax.types.Deployed` model into another, whose bounds are never looser. +1 of every
knob is exactly no defence.
"""

from metasg_jax.post_defenses.neuron_clip import NeuronClip
from metasg_jax.post_defenses.none import NoDefense, undefended
from metasg_jax.post_defenses.prune import Prune
from metasg_jax.registry import Registry

POST_DEFENSES = Registry(
    "post-training defence", {"none": NoDefense, "neuron_clip": NeuronClip, "prune": Prune}
)

__all__ = ["POST_DEFENSES", "NeuronClip", "NoDefense", "Prune", "undefended"]
