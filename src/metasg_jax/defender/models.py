"""A stranger's models as rows: NumPy, JAX or PyTorch leaves, floats apart from counters."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.errors import ConfigError
from metasg_jax.features.layout import path_name
from metasg_jax.types import Params


class ModelForm:
    """Structure, shapes and dtypes of a model; equal forms are the same kind of model.

    Floating leaves make the row f32[d] in the order of the tree. Integer and boolean leaves, such
    as counters of batches, are no part of it: they would swamp every distance.

    Attributes:
        names: paths of all leaves.
        shapes: of all leaves.
        size: d.
    """

    def __init__(self, params: Params):
        leaves, self.treedef = jax.tree.flatten(params)
        paths, _ = jax.tree_util.tree_flatten_with_path(params)
        self.names = tuple(path_name(path) for path, _ in paths)
        # an empty tensor of the same kind makes others, so that torch need not be imported here
        self.torch_like = tuple(
            leaf.new_empty((0,)) if hasattr(leaf, "new_tensor") else None for leaf in leaves
        )
        self.is_jax = tuple(isinstance(leaf, jax.Array) for leaf in leaves)
        arrays = [as_numpy(leaf) for leaf in leaves]
        self.shapes = tuple(a.shape for a in arrays)
        self.dtypes = tuple(a.dtype for a in arrays)
        self.floating = tuple(_floating(dtype) for dtype in self.dtypes)
        self.sizes = tuple(
            int(np.prod(s)) if f else 0 for s, f in zip(self.shapes, self.floating, strict=True)
        )
        self.size = sum(self.sizes)
        if not self.size:
            raise ConfigError("params: no floating leaf, so nothing to aggregate")
        bad = [n for n, d in zip(self.names, self.dtypes, strict=True) if d.kind not in "fiubV"]
        if bad:
            raise ConfigError(f"params: {bad[0]} is neither real nor whole numbers")

    @property
    def key(self) -> str:
        """What two models must share to be of one form."""
        return f"{self.treedef} {self.shapes}"

    def float_leaves(self) -> tuple[jax.Array, ...]:
        """Zeros in the shapes of the floating leaves, in the order of the row."""
        return tuple(
            jnp.zeros(shape) for shape, f in zip(self.shapes, self.floating, strict=True) if f
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
        """All leaves as NumPy arrays.

        Raises:
            ConfigError: where structure or shapes are others, or a leaf holds no numbers.
        """
        try:
            leaves, treedef = jax.tree.flatten(params)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{what}: not a tree of arrays: {error}") from None
        if treedef != self.treedef:
            raise ConfigError(f"{what}: other structure: {len(leaves)} leaves, {treedef}")
        out = []
        for leaf, name, shape in zip(leaves, self.names, self.shapes, strict=True):
            try:
                array = as_numpy(leaf)
            except Exception as error:
                raise ConfigError(f"{what}: {name} is no array: {error}") from None
            if array.shape != shape:
                raise ConfigError(f"{what}: {name} has shape {array.shape}, not {shape}")
            if array.dtype.kind not in "fiub" and not _floating(array.dtype):
                raise ConfigError(f"{what}: {name} holds {array.dtype}, not real numbers")
            out.append(array)
        return out

    def row(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """The floating leaves as one vector f32[d]; what float32 can't hold becomes infinite."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.concatenate(
                [
                    a.astype(np.float32).reshape(-1)
                    for a, f in zip(arrays, self.floating, strict=True)
                    if f
                ]
            )

    def unrow(self, row: np.ndarray, others: Sequence[np.ndarray]) -> Params:
        """The model of a row f32[d], in the kinds and dtypes of this form.

        Args:
            row: of :meth:`row`.
            others: an array for each leaf; those that are not floating are taken from it.
        """
        parts = iter(
            np.split(
                row,
                np.cumsum([s for s, f in zip(self.sizes, self.floating, strict=True) if f])[:-1],
            )
        )
        leaves = []
        for i, shape in enumerate(self.shapes):
            array = others[i]
            if self.floating[i]:
                array = next(parts).reshape(shape)
            array = np.asarray(array).astype(self.dtypes[i])
            leaves.append(self._like(i, array))
        return jax.tree.unflatten(self.treedef, leaves)

    def _like(self, i: int, array: np.ndarray) -> Any:
        like = self.torch_like[i]
        if like is not None:
            if array.dtype.kind not in "fiub":  # bfloat16, which torch does not take from NumPy
                array = array.astype(np.float32)
            return like.new_tensor(array, dtype=like.dtype)
        return jnp.asarray(array) if self.is_jax[i] else array


def as_numpy(leaf: Any) -> np.ndarray:
    """A leaf as a NumPy array; PyTorch's bfloat16 by way of float32."""
    if hasattr(leaf, "detach"):
        leaf = leaf.detach().cpu()
        if str(leaf.dtype) == "torch.bfloat16":
            return leaf.float().numpy().astype(jnp.bfloat16)
        return leaf.numpy()
    return np.asarray(leaf)


def _floating(dtype) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))
