"""A stranger's models as rows: NumPy, JAX or PyTorch leaves, floats apart from counters."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.errors import ConfigError
from metasg_jax.features.layout import path_name
from metasg_jax.types import Params

# Floats hold every whole number up to here.
_MOST_WHOLE = 2**53


class ModelForm:
    """Structure, shapes and dtypes of a model; equal forms are the same kind of model.

    Floating leaves make the row f32[d] in the order of the tree. Integer and boolean leaves, such
    as counters of batches, are no part of it: they would swamp every distance.

    Attributes:
        names: paths of all leaves.
        shapes: of all leaves.
        floating: of all leaves, whether it is part of the row.
        size: d.

    Args:
        params: the model that was sent out.
        what: how a message calls it.

    Raises:
        ConfigError: where a leaf is no array of numbers, or none is floating.
    """

    def __init__(self, params: Params, what: str = "params"):
        paths, self.treedef = _flatten(params, what)
        self.names = tuple(path_name(path) for path, _ in paths)
        leaves = [leaf for _, leaf in paths]
        # an empty tensor of the same kind makes others, so that torch need not be imported here
        self.torch_like = tuple(
            leaf.new_empty((0,)) if hasattr(leaf, "new_tensor") else None for leaf in leaves
        )
        self.is_jax = tuple(isinstance(leaf, jax.Array) for leaf in leaves)
        arrays = [
            _numbers(leaf, f"{what}: {n}") for n, leaf in zip(self.names, leaves, strict=True)
        ]
        self.shapes = tuple(a.shape for a in arrays)
        self.dtypes = tuple(a.dtype for a in arrays)
        self.floating = tuple(is_floating(dtype) for dtype in self.dtypes)
        self.sizes = tuple(
            int(np.prod(s)) if f else 0 for s, f in zip(self.shapes, self.floating, strict=True)
        )
        self.size = sum(self.sizes)
        if not self.size:
            raise ConfigError(f"{what}: no floating leaf, so nothing to aggregate")

    @property
    def key(self) -> str:
        """What two models must share to be of one form."""
        return f"{self.treedef} {self.shapes}"

    def float_leaves(self) -> tuple[jax.Array, ...]:
        """Zeros in the shapes of the floating leaves, in the order of the row."""
        return tuple(
            jnp.zeros(shape, jnp.float32)
            for shape, f in zip(self.shapes, self.floating, strict=True)
            if f
        )

    def float_names(self) -> tuple[str, ...]:
        """Their paths."""
        return tuple(name for name, f in zip(self.names, self.floating, strict=True) if f)

    def tree_of(self, float_leaves: Sequence[jax.Array]) -> Params:
        """The model of its floating leaves, as JAX arrays; counters are 0."""
        floats = iter(float_leaves)
        leaves = [
            next(floats) if f else jnp.zeros(shape, jnp.int32)
            for shape, f in zip(self.shapes, self.floating, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def arrays(self, params: Params, what: str) -> list[np.ndarray]:
        """All leaves as NumPy arrays, which fit this form.

        Whole numbers may stand for floats that hold them, nothing else for whole numbers. Entries
        that are not finite are let through: see :meth:`difference`.

        Raises:
            ConfigError: where structure or shapes are others, or a leaf holds other things than
                numbers of its kind; begins with ``what``.
        """
        paths, treedef = _flatten(params, what)
        if not _equal(treedef, self.treedef):
            raise ConfigError(f"{what}: other structure: {len(paths)} leaves, {short(treedef)}")
        out = []
        for i, (_, leaf) in enumerate(paths):
            name, shape = self.names[i], self.shapes[i]
            array = _numbers(leaf, f"{what}: {name}")
            if array.shape != shape:
                raise ConfigError(f"{what}: {name} has shape {array.shape}, not {shape}")
            if not self.floating[i]:
                array = _as_whole(array, self.dtypes[i], f"{what}: {name}")
            elif not is_floating(array.dtype) and not _held_by_floats(array):
                raise ConfigError(f"{what}: {name} holds whole numbers beyond 2^53, not floats")
            out.append(array)
        return out

    def row(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """The floating leaves as one vector f32[d]; what float32 can't hold becomes infinite."""
        out = np.empty(self.size, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for part, array in zip(self._parts(out), self._floats(arrays), strict=True):
                part[:] = _wide(array).reshape(-1)
        return out

    def difference(
        self, sent: Sequence[np.ndarray], arrays: Sequence[np.ndarray], out: np.ndarray
    ) -> bool:
        """Writes ``sent - arrays``, a client's row, into ``out`` f32[d]; whether it is usable.

        Both are cast first, to float32 or, where one of them is wider, to float64: in bfloat16 the
        difference itself is rounded, and in float16 that of two finite numbers may be infinite.

        A row is usable where its squared norm is finite in float32, as
        :func:`metasg_jax.aggregators.presence.presence` has it.
        """
        pairs = zip(self._floats(sent), self._floats(arrays), strict=True)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for part, (before, after) in zip(self._parts(out), pairs, strict=True):
                before, after = _wide(before).reshape(-1), _wide(after).reshape(-1)
                np.subtract(before, after, out=part, casting="same_kind")
            return bool(np.isfinite(np.vdot(out, out)))

    def moved(
        self, sent: Sequence[np.ndarray], update: np.ndarray, others: Sequence[np.ndarray]
    ) -> Params:
        """The model ``sent - update``, in the kinds and dtypes of this form.

        Args:
            sent: the model that was sent out.
            update: f32[d], of rows of :meth:`difference`.
            others: an array for each leaf; those that are not floating are taken from it.
        """
        parts = iter(self._parts(update))
        leaves = []
        for i, shape in enumerate(self.shapes):
            array = others[i]
            if self.floating[i]:
                array = _wide(sent[i]) - next(parts).reshape(shape)
            leaves.append(self._like(i, np.asarray(array).astype(self.dtypes[i])))
        return jax.tree.unflatten(self.treedef, leaves)

    def counters(
        self, sent: Sequence[np.ndarray], kept: Sequence[Sequence[np.ndarray]]
    ) -> list[np.ndarray]:
        """An array for each leaf; where whole, the mean of the kept clients' own, rounded.

        Halves go to the even number; of booleans the majority counts, a tie is False. Without a
        client, and in floating leaves, it is what was sent.
        """
        return [
            sent[i] if floating or not kept else _mean_of_whole([model[i] for model in kept])
            for i, floating in enumerate(self.floating)
        ]

    def _floats(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [a for a, f in zip(arrays, self.floating, strict=True) if f]

    def _parts(self, row: np.ndarray) -> list[np.ndarray]:
        """Views of a vector f32[d], one a floating leaf."""
        ends = np.cumsum([s for s, f in zip(self.sizes, self.floating, strict=True) if f])
        return np.split(row, ends[:-1])

    def _like(self, i: int, array: np.ndarray) -> Any:
        like = self.torch_like[i]
        if like is not None:
            if array.dtype.kind not in "fiub":  # bfloat16, which torch does not take from NumPy
                array = array.astype(np.float32)
            return like.new_tensor(array, dtype=like.dtype)
        return jnp.asarray(array) if self.is_jax[i] else array


def is_floating(dtype) -> bool:
    """Whether it is a float of any width, those of machine learning among them."""
    return dtype.kind == "f" or (dtype.kind == "V" and bool(jnp.issubdtype(dtype, jnp.floating)))


def _is_whole(dtype) -> bool:
    # time differences are integers to issubdtype
    return dtype.kind in "iub" or (dtype.kind == "V" and bool(jnp.issubdtype(dtype, jnp.integer)))


def _flatten(params: Params, what: str):
    """(path, leaf) of all leaves, and the structure."""
    try:
        return jax.tree_util.tree_flatten_with_path(params)
    except Exception as error:  # whatever a class of the caller's, or keys of two kinds, raise
        raise ConfigError(f"{what}: not a tree of arrays: {short(error)}") from None


def _equal(treedef, other) -> bool:
    try:
        return treedef == other
    except Exception:  # of a class of the caller's whose static part can't be compared
        return False


def _numbers(leaf: Any, what: str) -> np.ndarray:
    """A leaf as an array of real or whole numbers; PyTorch's bfloat16 by way of float32."""
    if isinstance(leaf, np.ma.MaskedArray):
        raise ConfigError(f"{what} is a masked array, whose mask would be lost: fill it")
    try:
        if hasattr(leaf, "detach"):
            leaf = leaf.detach().cpu()
            if str(leaf.dtype) == "torch.bfloat16":
                leaf = leaf.float().numpy().astype(jnp.bfloat16)
            else:
                leaf = leaf.numpy()
        array = np.asarray(leaf)
    except Exception as error:  # of a PRNG key, a deleted array, another library's tensor
        raise ConfigError(f"{what} is no array: {short(error)}") from None
    if not (is_floating(array.dtype) or _is_whole(array.dtype)):
        raise ConfigError(f"{what} holds {short(array.dtype)}, not real numbers")
    return array


def _wide(array: np.ndarray) -> np.ndarray:
    """As float32, or as float64 where float32 would lose what it holds."""
    narrow = is_floating(array.dtype) and array.dtype.itemsize <= 4
    return array.astype(np.float32 if narrow else np.float64, copy=False)


def _held_by_floats(array: np.ndarray) -> bool:
    return array.dtype.itemsize < 8 or not _beyond(array, _MOST_WHOLE)


def _as_whole(array: np.ndarray, dtype, what: str) -> np.ndarray:
    """The same numbers in another dtype."""
    if array.dtype == dtype:
        return array
    if is_floating(array.dtype):
        raise ConfigError(f"{what} holds {array.dtype}, not {dtype}")
    cast = array.astype(dtype)
    if not np.array_equal(cast, array):
        raise ConfigError(f"{what} holds {array.dtype} of values that {dtype} can't hold")
    return cast


def _mean_of_whole(arrays: Sequence[np.ndarray]) -> np.ndarray:
    stacked, n = np.stack(arrays), len(arrays)
    if stacked.dtype.kind == "b":
        return stacked.mean(axis=0) > 0.5
    if stacked.dtype.itemsize < 8 or not _beyond(stacked, 2**62 // n):
        stacked = stacked.astype(np.int64)
    else:  # a sum may need more bits than 64, and floats would lose some
        stacked = stacked.astype(object)
    total = np.asarray(stacked.sum(axis=0), stacked.dtype)
    whole, rest = total // n, total % n
    up = (2 * rest > n) | ((2 * rest == n) & (whole % 2 == 1))
    return np.asarray(whole, stacked.dtype) + np.asarray(np.where(up, 1, 0), stacked.dtype)


def _beyond(array: np.ndarray, most: int) -> bool:
    return bool(array.size) and (int(array.min()) < -most or int(array.max()) > most)


def short(thing: Any) -> str:
    """What a message says of a thing from outside: one line, never an error, never a page."""
    try:
        text = " ".join(str(thing).split())
    except Exception:  # of a class of the caller's, or of a number of too many digits
        text = f"a {type(thing).__name__}"
    return text if len(text) <= 200 else text[:200] + "..."
