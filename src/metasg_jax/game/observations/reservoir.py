"""The statistics, and a fixed recurrent cell that has read those of all rounds before."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.config import FLConfig
from metasg_jax.game.observations.summaries import NUM_STATISTICS, round_statistics
from metasg_jax.types import Model, Received


@dataclasses.dataclass(frozen=True)
class ReservoirObservation:
    """The statistics of this round, and a recurrent cell that has read those of all before it.

    A fixed random network, an echo state network (Jaeger and Haas, Science, 2004):
    ``h' = (1 - leak) h + leak tanh(W h + V x)``, W with spectral radius ``radius``. The policy
    learns to read it; nothing has to be learned through time.

    Attributes:
        units: of the cell.
        leak: in (0, 1]; small is slow.
        radius: in (0, 1); large remembers longer.
    """

    units: int = 64
    leak: float = 0.3
    radius: float = 0.9
    needs_root = True

    def spec(self, model: Model, fl: FLConfig, action_size: int) -> int:
        """O."""
        return NUM_STATISTICS + self.units + 1 + action_size

    def init(self, model: Model, fl: FLConfig, action_size: int) -> Any:
        """(state of the cell, rounds seen, previous root loss)."""
        return (
            jnp.zeros((self.units,), jnp.float32),
            jnp.zeros((), jnp.float32),
            jnp.zeros((), jnp.float32),
        )

    def weights(self) -> tuple[jax.Array, jax.Array]:
        """W f32[U, U] and V f32[U, S], the same in every run."""
        rng = np.random.default_rng(0)
        inner = rng.normal(size=(self.units, self.units))
        inner *= self.radius / np.abs(np.linalg.eigvals(inner)).max()
        outer = rng.normal(size=(self.units, NUM_STATISTICS)) / np.sqrt(NUM_STATISTICS)
        return jnp.asarray(inner, jnp.float32), jnp.asarray(outer, jnp.float32)

    def __call__(
        self, model: Model, memory, received: Received, root, loss, previous_action, progress
    ) -> tuple[jax.Array, Any]:
        """As :class:`StatisticsObservation`."""
        cell, seen, previous_loss = memory
        change = jnp.where(seen > 0, loss - previous_loss, 0.0)
        now = jnp.concatenate([round_statistics(model, received), jnp.stack([loss, change])])
        inner, outer = self.weights()
        cell = (1 - self.leak) * cell + self.leak * jnp.tanh(inner @ cell + outer @ now)
        obs = jnp.concatenate([now, cell, progress[None], previous_action])
        return obs, (cell, seen + 1, loss)
