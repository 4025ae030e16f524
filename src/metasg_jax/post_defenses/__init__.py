"""Post-training defences: one file each. They act on a copy, never on the model in training.

``calibrate(model, params, root_x)`` reads clean root images; the call turns parameters into a
:class:`~metasg_jax.types.Deployed` model.
"""

from metasg_jax.post_defenses.neuron_clip import NeuronClip
from metasg_jax.post_defenses.none import NoDefense
from metasg_jax.post_defenses.prune import Prune
from metasg_jax.registry import Registry

POST_DEFENSES = Registry(
    "post-training defence", {"none": NoDefense, "neuron_clip": NeuronClip, "prune": Prune}
)

__all__ = ["POST_DEFENSES", "NeuronClip", "NoDefense", "Prune"]
