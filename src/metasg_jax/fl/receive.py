"""The gate for a federation elsewhere: its models become what a rule reads, or are refused by name.

:func:`receive` and :meth:`metasg_jax.defender.Defender.aggregate` check and cast by the same code;
the first raises for a client that does not fit, the second leaves it out.
"""

import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.errors import ConfigError
from metasg_jax.fl.model_form import ModelForm, is_floating, short
from metasg_jax.types import Params, Received

# Smaller ones are rounded to 0 by XLA.
_TINY = float(np.finfo(np.float32).tiny)
_MOST = float(np.finfo(np.float32).max)
_MOST_ID = 2**31 - 1


def receive(
    global_params: Params,
    client_params: Sequence[Params],
    weights: Sequence[float] | None = None,
    client_ids: Sequence[int] | None = None,
    root_params: Params | None = None,
    round: int = 0,
) -> Received:
    """A round's local models, pytrees of a caller outside the simulator, as a rule reads them.

    Any rule then gives the update to subtract, and :func:`next_model` the model to send out next.
    ``game.check_rule(rule, n)`` says whether its numbers fit n clients, which a rule that is called
    does not. Entries that are not finite are a client's affair, not an error: the rule leaves such
    a row out, and counts it. Not for use under ``jit``.

    Floating leaves of any width make the rows: cast to float32 (or float64, where they are wider)
    before the difference is taken, f32 after it. Integer and boolean leaves, such as counters of
    batches, are in no row and no distance: :func:`next_model` averages them apart.

    Args:
        global_params: the model that was sent out: NumPy, JAX or PyTorch leaves.
        client_params: n local models of the same structure and shapes.
        weights: n non-negative numbers, not all zero, of images for instance; ones by default.
        client_ids: n different whole numbers from 0 to 2^31 - 1; 0 .. n - 1 by default. Rules that
            remember clients want 0 .. N - 1: number yours, ids of 64 bits or strings are refused.
        root_params: the model that the server trained on its own images, for rules that need it.
        round: counted from 0, below 2^31.

    Raises:
        ConfigError: where a model has another structure or shape or holds no real numbers, or
            weights, ids or round don't fit; names the client and the leaf.

    Example:
        >>> from metasg_jax.aggregators import Median
        >>> sent = {"w": jnp.array([0.0]), "batches": jnp.array(0)}
        >>> clients = [{"w": jnp.array([v]), "batches": jnp.array(5)} for v in (1.0, 2.0, 900.0)]
        >>> update, _, info = Median()(jax.random.key(0), (), receive(sent, clients))
        >>> model = next_model(sent, update, clients)
        >>> model["w"].tolist(), int(model["batches"]), int(info["rejected"])
        ([2.0], 5, 0)
    """
    client_params = list(client_params)
    n = len(client_params)
    if not n:
        raise ConfigError("client_params = []: at least one model")
    form = ModelForm(global_params, "global_params")
    sent, w_global = check_sent(form, global_params, "global_params")
    rows = np.empty((n, form.size), np.float32)
    for i, params in enumerate(client_params):
        name = f"client_params[{i}]"
        form.difference(sent, form.arrays(params, name), rows[i])
    root = None
    if root_params is not None:
        root = np.empty(form.size, np.float32)
        form.difference(sent, form.arrays(root_params, "root_params"), root)
    return Received(
        updates=jnp.asarray(rows),
        weights=jnp.asarray(check_weights(weights, n), jnp.float32),
        client_ids=jnp.asarray(_ids(client_ids, n)),
        w_global=jnp.asarray(w_global),
        root_update=None if root is None else jnp.asarray(root),
        round=jnp.asarray(_whole(round, "round"), jnp.int32),
    )


def next_model(
    global_params: Params,
    update: jax.Array,
    client_params: Sequence[Params] = (),
    kept: Sequence[bool] | None = None,
) -> Params:
    """The model that was sent out less a rule's update, in its own kinds and dtypes.

    Args:
        global_params: as of :func:`receive`.
        update: f32[d], what to subtract; times the server's learning rate, if it has one.
        client_params: n local models. Their integer leaves are averaged and rounded, halves to the
            even number; booleans are put to the vote, a tie is False. Without them these leaves
            stay as they were sent.
        kept: bool[n], of which models; all with a usable row by default.

    Raises:
        ConfigError: as of :func:`receive`; for an update of another size.

    Example:
        >>> import numpy as np
        >>> next_model({"w": np.array([1.0, 2.0], np.float32)}, np.array([0.5, 0.0]))["w"].tolist()
        [0.5, 2.0]
    """
    form = ModelForm(global_params, "global_params")
    sent, _ = check_sent(form, global_params, "global_params")
    moves = np.asarray(update)
    if moves.shape != (form.size,):
        raise ConfigError(f"update: of shape {moves.shape}, not ({form.size},)")
    models, row = [], np.empty(form.size, np.float32)
    for i, params in enumerate(client_params):
        if kept is None or kept[i]:
            arrays = form.arrays(params, f"client_params[{i}]")
            if kept is not None or form.difference(sent, arrays, row):
                models.append(arrays)
    return form.moved(sent, moves, form.counters(sent, models))


def check_sent(form: ModelForm, params: Params, what: str) -> tuple[list[np.ndarray], np.ndarray]:
    """The leaves of the model that was sent out, and its row f32[d].

    Raises:
        ConfigError: where an entry is not finite in float32: every client's row would be lost.
    """
    sent = form.arrays(params, what)
    w_global = form.row(sent)
    if not np.isfinite(w_global).all():
        raise ConfigError(f"{what}: entries that are not finite, or too large for float32")
    return sent, w_global


def check_weights(weights: Sequence[float] | None, n: int) -> np.ndarray:
    """Claimed weights as f64[n], ones by default.

    Raises:
        ConfigError: unless there are n real numbers, finite, none below 0 and one above, that
            float32 tells from 0 and whose sum it holds.
    """
    if weights is None:
        return np.ones(n)
    weights = _one_each(weights, n, "weights")
    values = np.array([_real(value, f"weights[{i}]") for i, value in enumerate(weights)])
    for i, value in enumerate(values):
        if not (np.isfinite(value) and value >= 0):
            raise ConfigError(f"weights[{i}] = {value:g}: at least 0 and finite")
        if 0 < value < _TINY:
            raise ConfigError(f"weights[{i}] = {value:g}: 0 or at least {_TINY:g}, in float32")
    if not values.any():
        raise ConfigError("weights: all 0; at least one above 0")
    if values.sum() > _MOST:
        raise ConfigError(f"weights: a sum of {values.sum():g}: at most {_MOST:g}, in float32")
    return values


def _one_each(values, n: int, what: str) -> list:
    try:
        values = list(values)
    except TypeError:
        raise ConfigError(f"{what} = {short(values)}: one for each of {n} clients") from None
    if len(values) != n:
        raise ConfigError(f"{what}: {len(values)} of them, not one for each of {n} clients")
    return values


def _real(value, what: str) -> float:
    """A real number as a float; numbers of NumPy, JAX and PyTorch too."""
    try:
        array = np.asarray(value)
        # a whole number of any size is an object to NumPy
        if array.shape == () and (array.dtype.kind in "iub" or is_floating(array.dtype)):
            return float(array)
        if isinstance(value, int):
            return float(value)
    except Exception:  # whatever a class of the caller's raises; or the number is too large
        pass
    raise ConfigError(f"{what} = {short(value)}: a real number that a float can hold")


def _ids(client_ids: Sequence[int] | None, n: int) -> np.ndarray:
    """i32[n]."""
    if client_ids is None:
        return np.arange(n, dtype=np.int32)
    ids = _one_each(client_ids, n, "client_ids")
    ids = [_whole(each, f"client_ids[{i}]") for i, each in enumerate(ids)]
    if len(set(ids)) < n:
        raise ConfigError(f"client_ids = {ids}: {n} different numbers, one a client")
    return np.array(ids, np.int32)


def _whole(value, what: str) -> int:
    """A whole number that an i32 holds, at least 0."""
    try:
        # of a 0-d array of floats it raises, as of 1.0
        whole = operator.index(value)
    except Exception:  # whatever a class of the caller's raises
        whole = -1
    if not 0 <= whole <= _MOST_ID:
        raise ConfigError(f"{what} = {short(value)}: a whole number from 0 to {_MOST_ID}")
    return whole
