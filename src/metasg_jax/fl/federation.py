"""Who takes part in a round: the federation, and the clients that are called in it."""

import jax

from metasg_jax.config import FLConfig
from metasg_jax.fl.data import ClientData
from metasg_jax.struct import Struct, field
from metasg_jax.types import Model


class Federation(Struct):
    """What stays from round to round.

    Attributes:
        model: static; what the clients train.
        fl: how they do; counts are static, learning rates traced.
        data: images of clients and server.
    """

    model: Model = field(static=True)
    fl: FLConfig
    data: ClientData


class Call(Struct):
    """What goes out at the beginning of a round.

    Attributes:
        w_global: f32[d], the model.
        client_ids: i32[n], to whom; all different.
        round: i32[], counted from 0.
    """

    w_global: jax.Array
    client_ids: jax.Array
    round: jax.Array
