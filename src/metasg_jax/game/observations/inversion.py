"""The statistics, and a search for triggers in the model that the server sends out."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.config import FLConfig
from metasg_jax.fl.trigger_inversion import begin_search, continue_search, estimate_asr
from metasg_jax.game.observations.statistics import StatisticsObservation
from metasg_jax.post_defenses import undefended
from metasg_jax.types import Model, Received

_NUM_PATCHED = 4


@dataclasses.dataclass(frozen=True)
class InversionObservation:
    """The statistics, and how well a patch can send the server's own images to one label.

    A backdoor of honest size shows in no norm and hardly in a cosine. So the server looks for the
    trigger in the model that it sends out: a patch for each label, improved by a step a round
    (:func:`metasg_jax.fl.trigger_inversion.continue_search`). Of the labels' mean probabilities
    under their patches it sees the largest, the second, the median, and ``(first - second) / (1 -
    second)``, an estimate of the attack's success; now and as moving averages.

    Attributes:
        decay: of all moving averages, in [0, 1).
        side: of the patch, in pixels.
        images: of the root set, a round.
    """

    decay: float = 0.9
    side: int = 3
    images: int = 64
    needs_root = True

    @property
    def _statistics(self) -> StatisticsObservation:
        return StatisticsObservation(self.decay)

    def spec(self, model: Model, fl: FLConfig, action_size: int) -> int:
        """O."""
        return self._statistics.spec(model, fl, action_size) + 2 * _NUM_PATCHED

    def init(self, model: Model, fl: FLConfig, action_size: int) -> Any:
        """(the statistics' memory, the search, moving averages of what it found)."""
        return (
            self._statistics.init(model, fl, action_size),
            begin_search(model, self.side),
            jnp.zeros((_NUM_PATCHED,), jnp.float32),
        )

    def __call__(
        self, model: Model, memory, received: Received, root, loss, previous_action, progress
    ) -> tuple[jax.Array, Any]:
        """As :class:`StatisticsObservation`."""
        before, search, averages = memory
        obs, after = self._statistics(
            model, before, received, root, loss, previous_action, progress
        )
        sent_out = undefended(model, model.unravel(received.w_global))
        search, success = continue_search(
            search, model, sent_out, *root, side=self.side, images=self.images
        )
        now = patch_features(success)
        averages = self.decay * averages + (1 - self.decay) * now
        _, gathered, _ = after  # the statistics' averages are as old
        return jnp.concatenate([obs, now, averages / gathered]), (after, search, averages)


def patch_features(success: jax.Array) -> jax.Array:
    """Largest, second, median and estimated attack success of f32[C], whatever the labels."""
    ordered = jnp.sort(success)
    _, estimated = estimate_asr(success)
    return jnp.stack([ordered[-1], ordered[-2], jnp.median(ordered), estimated])
