"""Flower's records as arrays by name; of what a client's record says nothing is believed."""

import io
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flwr.app import Array, ArrayRecord

from metasg_jax.errors import ConfigError
from metasg_jax.features.layout import path_name
from metasg_jax.types import Params

Arrays = OrderedDict[str, np.ndarray]
"""A model as it is on the wire: in the order of the record, which need not be that of its names."""

_HEADER = 10_000
"""Bytes that the head of an array may have, NumPy's own limit."""
_WIDEST = 8
"""Bytes of the widest number, a float64."""
_NUMPY = "numpy.ndarray"
_LISTED = 3


def to_record(params: Params) -> ArrayRecord:
    """A pytree of arrays as a record; names are paths, as ``Dense_0/kernel``.

    Example:
        >>> record = to_record({"out": {"w": np.ones((2, 1)), "b": np.zeros(1)}})
        >>> list(record)
        ['out/b', 'out/w']
    """
    return as_record(by_name(params))


def by_name(params: Params) -> Arrays:
    """The leaves of a pytree as arrays, by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return OrderedDict((path_name(path), np.asarray(leaf)) for path, leaf in leaves)


def as_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Flower's record of arrays by name, in their order."""
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})


def to_params(record: Mapping[str, Any], like: Params) -> Params:
    """The pytree whose leaves a record holds under the names of :func:`to_record`.

    Args:
        record: of Flower, or arrays by name.
        like: a pytree of the same structure; its leaves are not read.

    Raises:
        ConfigError: where a name is missing.

    Example:
        >>> model = {"out": {"w": np.ones((2, 1)), "b": np.zeros(1)}}
        >>> to_params(to_record(model), model)["out"]["w"].tolist()
        [[1.0], [1.0]]
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(like)
    names = [path_name(path) for path, _ in paths]
    missing = [name for name in names if name not in record]
    if missing:
        raise ConfigError(f"record: no array {few(missing)}; it has {few(record)}")
    arrays = [record[name] for name in names]
    return treedef.unflatten([a.numpy() if isinstance(a, Array) else a for a in arrays])


def own_arrays(record: ArrayRecord) -> Arrays:
    """The arrays of a record that this server made itself."""
    return OrderedDict((name, array.numpy()) for name, array in record.items())


def client_arrays(record: ArrayRecord, sent: Mapping[str, np.ndarray]) -> Arrays:
    """A client's arrays, in the order of the model that it was sent.

    Sizes and heads are read before anything is decoded: a head of a few bytes may ask for any
    amount of memory, and an array may be followed by any amount of other bytes.

    Raises:
        ConfigError: where names or shapes are others, or an array is no plain NumPy array of
            numbers; says which.
    """
    missing = [name for name in sent if name not in record]
    if missing or len(record) != len(sent):
        beyond = [name for name in record if name not in sent]
        raise ConfigError(
            f"{len(record)} arrays, not {len(sent)}"
            + (f"; missing: {few(missing)}" if missing else "")
            + (f"; not of this model: {few(beyond)}" if beyond else "")
        )
    return OrderedDict((name, _decode(record[name], name, like)) for name, like in sent.items())


def _decode(array: Array, name: str, like: np.ndarray) -> np.ndarray:
    data, most = array.data, _WIDEST * like.size + _HEADER
    if array.stype != _NUMPY:
        raise ConfigError(f"{short(name)} is serialised as {short(array.stype)}, not {_NUMPY}")
    if len(data) > most:
        raise ConfigError(f"{short(name)} has {len(data)} bytes; {most} hold shape {like.shape}")
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, columns_first, dtype = read(file, max_header_size=_HEADER)
    except Exception as error:  # what a client wrote may raise anything
        raise ConfigError(f"{short(name)} is no NumPy array: {short(error)}") from None
    if dtype.kind not in "fiub" or dtype.itemsize > _WIDEST:
        raise ConfigError(f"{short(name)} holds {short(dtype)}, not real numbers")
    if shape != like.shape:
        raise ConfigError(f"{short(name)} has shape {short(shape)}, not {like.shape}")
    if len(data) - file.tell() != like.size * dtype.itemsize:
        raise ConfigError(f"{short(name)} has {len(data)} bytes, not those of its shape")
    flat = np.frombuffer(data, dtype, like.size, file.tell())
    return flat.reshape(shape, order="F" if columns_first else "C")


def few(names) -> str:
    names = [short(name) for name in names]
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def short(value: object, most: int = 60) -> str:
    """A client's text may be of any length, and of any characters."""
    text = ascii(str(value))[1:-1]
    return text if len(text) <= most else f"{text[:most]}..."
