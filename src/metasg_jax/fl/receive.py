"""From the models of a federation elsewhere to what a rule reads."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from metasg_jax.errors import ConfigError
from metasg_jax.types import Params, Received


def receive(
    global_params: Params,
    client_params: Sequence[Params],
    weights: Sequence[float] | None = None,
    client_ids: Sequence[int] | None = None,
    root_params: Params | None = None,
    round: int = 0,
) -> Received:
    """A round's local models, pytrees of a caller outside the simulator, as a rule reads them.

    Any rule then gives the update to subtract. ``game.check_rule(rule, n)`` says whether its
    numbers fit n clients, which a rule that is called does not. Entries that are not finite are a
    client's affair, not an error: the rule leaves such a row out, and counts it. Not for use under
    ``jit``.

    Args:
        global_params: the model that was sent out.
        client_params: n local models of the same structure and shapes.
        weights: n non-negative numbers, not all zero, of images for instance; ones by default.
        client_ids: n different numbers; 0 .. n - 1 by default.
        root_params: the model that the server trained on its own images, for rules that need it.
        round: counted from 0.

    Raises:
        ConfigError: where a model has another structure or shape, or weights or ids don't fit;
            names the client.

    Example:
        >>> from metasg_jax.aggregators import Median
        >>> clients = [{"w": jnp.array([v])} for v in (1.0, 2.0, 900.0)]
        >>> got = receive({"w": jnp.array([0.0])}, clients)
        >>> update, _, info = Median()(jax.random.key(0), (), got)
        >>> unravel = ravel_pytree(clients[0])[1]
        >>> unravel(got.w_global - update)["w"].tolist(), int(info["rejected"])
        ([2.0], 0)
    """
    n = len(client_params)
    if not n:
        raise ConfigError("client_params = []: at least one model")
    w_global, _ = ravel_pytree(jax.tree.map(jnp.asarray, global_params))
    rows = [
        _row(global_params, w_global, params, f"client_params[{i}]")
        for i, params in enumerate(client_params)
    ]
    return Received(
        updates=jnp.stack(rows).astype(jnp.float32),
        weights=jnp.asarray(check_weights(weights, n), jnp.float32),
        client_ids=_ids(client_ids, n),
        w_global=w_global.astype(jnp.float32),
        root_update=None
        if root_params is None
        else _row(global_params, w_global, root_params, "root_params").astype(jnp.float32),
        round=jnp.asarray(round, jnp.int32),
    )


def _row(global_params, w_global, params, name: str) -> jax.Array:
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (params, global_params)]
    if shapes[0] != shapes[1]:
        raise ConfigError(f"{name}: leaves of shapes {shapes[0]}, not {shapes[1]}")
    return w_global - ravel_pytree(jax.tree.map(jnp.asarray, params))[0]


def check_weights(weights: Sequence[float] | None, n: int) -> np.ndarray:
    """Claimed weights as f64[n], ones by default.

    Raises:
        ConfigError: unless there are n, finite, none below 0 and one above.
    """
    values = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    if values.shape != (n,):
        raise ConfigError(f"weights: {values.size} of them, not one for each of {n} clients")
    for i, value in enumerate(values):
        if not (np.isfinite(value) and value >= 0):
            raise ConfigError(f"weights[{i}] = {value:g}: at least 0 and finite")
    if not values.any():
        raise ConfigError("weights: all 0; at least one above 0")
    return values


def _ids(client_ids, n: int) -> jax.Array:
    ids = np.arange(n) if client_ids is None else np.asarray(client_ids)
    if ids.shape != (n,) or len(set(ids.tolist())) < n:
        raise ConfigError(f"client_ids = {ids.tolist()}: {n} different numbers, one a client")
    return jnp.asarray(ids, jnp.int32)
