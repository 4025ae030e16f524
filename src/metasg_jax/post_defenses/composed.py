"""Post-training defences in a row: ``prune+fine_tune``."""

from typing import Any

import jax

from metasg_jax.errors import ConfigError
from metasg_jax.struct import Struct, field
from metasg_jax.types import Model, PostDefense


class Calibrated(Struct):
    """What later parts need to be calibrated on what the parts before them make.

    Attributes:
        first: state of the first part.
        root_x: f32[R, h, w, c].
        root_y: i32[R].
        model: static.
    """

    first: Any
    root_x: jax.Array
    root_y: jax.Array
    model: Model = field(static=True)


class Composed(Struct):
    """Defences in order, each on what the ones before it made; itself a defence.

    Its knobs are those of its parts, in the same order. A part is calibrated on the model that the
    parts before it made under their knobs, hence in the call, the first one excepted. ``info`` is
    that of all parts; of two entries with one name the later part's stays.

    Attributes:
        parts: at least one.

    Example:
        >>> from metasg_jax.post_defenses import FineTune, Prune
        >>> Composed((Prune(), FineTune())).action_spec
        ('rate', 'tune')
    """

    parts: tuple[PostDefense, ...]

    @property
    def action_spec(self) -> tuple[str, ...]:
        """Knobs of all parts, in order."""
        return tuple(knob for part in self.parts for knob in part.action_spec)

    def check(self):
        """Raises ConfigError for a field out of range, of any part."""
        if not self.parts:
            raise ConfigError("Composed: parts = (): at least one post-training defence")
        for part in self.parts:
            part.check()

    def calibrate(self, model, deployed, root_x, root_y):
        """The first part's state, and what the others need."""
        first = self.parts[0].calibrate(model, deployed, root_x, root_y)
        return Calibrated(first, root_x, root_y, model)

    def __call__(self, key, state, deployed, action=None):
        """(Deployed, state, info of all parts)."""
        keys = jax.random.split(key, len(self.parts))
        infos, used = {}, 0
        for i, part in enumerate(self.parts):
            size = len(part.action_spec)
            knobs = None if action is None or not size else action[used : used + size]
            used += size
            calibrated = (
                part.calibrate(state.model, deployed, state.root_x, state.root_y)
                if i
                else state.first
            )
            deployed, _, info = part(keys[i], calibrated, deployed, knobs)
            infos |= info
        return deployed, state, infos
