"""Scale-free statistics of the round, and their moving averages."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.config import FLConfig
from metasg_jax.game.observations.summaries import NUM_STATISTICS, round_statistics
from metasg_jax.types import Model, Received


@dataclasses.dataclass(frozen=True)
class StatisticsObservation:
    """Scale-free summaries of what was received this round, and their moving averages.

    Norms relative to their median, cosines between rows (of the last layer) and to the server's
    own update, spread, drift of the last layer's biases (sorted, so that no class is special), the
    share of rows that arrived, the root loss and its change; then the round's share of the episode
    and the previous action.

    Attributes:
        decay: of the moving averages, in [0, 1).
    """

    decay: float = 0.9
    needs_root = True

    def spec(self, model: Model, fl: FLConfig, action_size: int) -> int:
        """O."""
        return 2 * NUM_STATISTICS + 1 + action_size

    def init(self, model: Model, fl: FLConfig, action_size: int) -> Any:
        """(moving averages, weight they have gathered, previous root loss)."""
        return (
            jnp.zeros((NUM_STATISTICS,), jnp.float32),
            jnp.zeros((), jnp.float32),
            jnp.zeros((), jnp.float32),
        )

    def __call__(
        self, model: Model, memory, received: Received, root, loss, previous_action, progress
    ) -> tuple[jax.Array, Any]:
        """Sees the round before the defender acts.

        Args:
            model: static.
            memory: from :meth:`init` or the previous round.
            received: with ``root_update``.
            root: the server's own images f32[R, h, w, c] and labels i32[R].
            loss: f32[], root loss of the model that was sent out.
            previous_action: f32[A] in [-1, 1].
            progress: f32[] in [0, 1], round / horizon.
        """
        averages, gathered, previous_loss = memory
        change = jnp.where(gathered > 0, loss - previous_loss, 0.0)
        now = jnp.concatenate([round_statistics(model, received), jnp.stack([loss, change])])
        averages = self.decay * averages + (1 - self.decay) * now
        gathered = self.decay * gathered + (1 - self.decay)
        obs = jnp.concatenate([now, averages / gathered, progress[None], previous_action])
        return obs, (averages, gathered, loss)
