"""What the server can tell of each client of the round: for a policy that decides about each."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.config import FLConfig
from metasg_jax.features import ServerData, layout_of
from metasg_jax.features.view import begin, describe, view_spec
from metasg_jax.struct import field
from metasg_jax.types import Model, Received


@dataclasses.dataclass(frozen=True)
class ClientsObservation:
    """What the server can tell of each client, and of the round: for a set policy.

    See :func:`metasg_jax.features.view.describe`. A client's id is its slot of the memory.

    Attributes:
        memory: ``ids``, clients are known again; ``none``, a federation without identities.
        influence: ``on`` or ``off``; what each row does to the root images costs n forward passes
            over up to 64 of them.
        root: ``on`` or ``off``, the server has no images: no influence, and no update of its own to
            compare with.
    """

    memory: str = field(static=True, default="ids", choices=("ids", "none"))
    influence: str = field(static=True, default="on", choices=("on", "off"))
    root: str = field(static=True, default="on", choices=("on", "off"))
    needs_root = True

    def spec(self, model: Model, fl: FLConfig, action_size: int) -> Any:
        """A :class:`~metasg_jax.features.view.ClientView` of n clients."""
        return view_spec(fl.num_sampled)

    def init(self, model: Model, fl: FLConfig, action_size: int) -> Any:
        """A :class:`~metasg_jax.features.memory.ClientMemory` with a slot a client."""
        return begin(fl.num_clients if self.memory == "ids" else 1)

    def __call__(
        self, model: Model, memory, received: Received, root, loss, previous_action, progress
    ) -> tuple[Any, Any]:
        """Sees the round before the defender acts; reads no loss, no action and no progress."""
        if self.root == "off":
            received = received.replace(root_update=None)
        return describe(
            received,
            server_data(model, root),
            memory,
            remembers=self.memory == "ids",
            without=() if (self.influence, self.root) == ("on", "on") else ("influence",),
        )


@functools.lru_cache
def _layout(model: Model):
    # concrete even when first asked for under a trace
    with jax.ensure_compile_time_eval():
        params = model.init(jax.random.key(0))
        x = jax.random.uniform(jax.random.key(0), (4, *model.input_shape), jnp.float32)
        return layout_of(params, model.apply, x)


@functools.lru_cache
def _apply_flat(model: Model):
    return lambda w, x: model.apply(model.unravel(w), x)


def server_data(model: Model, root) -> ServerData:
    """What the simulator's server has beside the updates: its images, labels and model."""
    return ServerData(*root, layout=_layout(model), apply=_apply_flat(model))
