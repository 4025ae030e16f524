"""The paper's observation: the last model, and nothing of the round."""

import dataclasses
from typing import Any

import jax

from metasg_jax.config import FLConfig
from metasg_jax.game.observations.head import flat_head
from metasg_jax.types import Model, Received


@dataclasses.dataclass(frozen=True)
class PaperObservation:
    """The last global model, blind to this round's updates (section 2.2: o_D = w_g).

    Compressed to the parameters of the last layer, as in the authors' later work.
    """

    needs_root = False

    def spec(self, model: Model, fl: FLConfig, action_size: int) -> int:
        """O: parameters of the last layer."""
        w = jax.eval_shape(lambda: flat_head(model, model.ravel(model.init(jax.random.key(0)))))
        return w.shape[0]

    def init(self, model: Model, fl: FLConfig, action_size: int) -> Any:
        """No memory."""
        return ()

    def __call__(
        self, model: Model, memory, received: Received, root, loss, previous_action, progress
    ) -> tuple[jax.Array, Any]:
        """(f32[O], memory)."""
        return flat_head(model, received.w_global), memory
