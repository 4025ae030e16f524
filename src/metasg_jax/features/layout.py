"""Where the layers lie in a raveled model, and which of them is the last matrix."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.errors import ConfigError

MOST_LAYERS = 8
"""Parts that a model is looked at in; the layers between first and last share the others."""


class Span(NamedTuple):
    """A stretch ``start:stop`` of the raveled parameters."""

    start: int
    stop: int


class LastMatrix(NamedTuple):
    """The matrix that makes the logits, and its bias.

    Attributes:
        kernel: where it lies.
        shape: (U, C), or (C, U) where ``classes_first``.
        classes_first: whether a class is a row, as in PyTorch.
        bias: where its bias lies; None if it has none.
    """

    kernel: Span
    shape: tuple[int, int]
    classes_first: bool
    bias: Span | None


class Matrix(NamedTuple):
    """A matrix, or a kernel with its inputs in one dimension.

    Attributes:
        span: where it lies.
        inputs: how many it has; for a kernel its window times its channels.
        inputs_first: whether an input is a row; not so in PyTorch.
    """

    span: Span
    inputs: int
    inputs_first: bool


class Layout(NamedTuple):
    """Static. What is known of a model's parameters once they are one vector.

    Attributes:
        size: d.
        layers: up to :data:`MOST_LAYERS`, each the stretches of one matrix or kernel, or of several
            neighbours; the last one is the last matrix if that was found.
        rest: stretches of what is no matrix, biases for instance.
        last: the last matrix; None where it could not be found.
        matrices: at most :data:`MOST_LAYERS`, the first and the last among them.
    """

    size: int
    layers: tuple[tuple[Span, ...], ...]
    rest: tuple[Span, ...]
    last: LastMatrix | None
    matrices: tuple[Matrix, ...] = ()

    @property
    def num_classes(self) -> int | None:
        """C, by the last matrix."""
        if self.last is None:
            return None
        return self.last.shape[0 if self.last.classes_first else 1]


def layout_of(
    params: Any,
    apply: Callable[[Any, Any], jax.Array] | None = None,
    x: Any = None,
    last: str | None = None,
) -> Layout:
    """Looks a model over, on the host.

    With ``apply`` and an input, the last matrix is the one whose class c touches no logit but c's;
    without them it is the last matrix of the tree that has a bias of one of its two widths, and the
    narrower one at that.

    Args:
        params: pytree of arrays.
        apply: ``(params, x) -> logits [B, C]``.
        x: some inputs [B, ...] for it.
        last: path of the last matrix, as ``head/kernel``, where it is not to be searched.

    Raises:
        ConfigError: where ``last`` names no matrix; lists those that there are.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    names = [path_name(path) for path, _ in flat]
    shapes = [tuple(np.shape(leaf)) for _, leaf in flat]
    stops = np.cumsum([int(np.prod(shape)) for shape in shapes]).tolist()
    spans = [Span(stop - int(np.prod(s)), stop) for s, stop in zip(shapes, stops, strict=True)]
    if last is not None:
        matrices = [name for name, shape in zip(names, shapes, strict=True) if len(shape) == 2]
        if last not in matrices:
            raise ConfigError(f"last = {last!r}: no matrix of that path; {', '.join(matrices)}")
    found = _last(params, names, shapes, spans, apply, x, last)
    layers = _layers(shapes, spans, found)
    inside = {span for layer in layers for span in layer}
    rest = tuple(span for span in spans if span not in inside and span.stop > span.start)
    matrices = _matrices(shapes, spans, found)
    return Layout(stops[-1] if stops else 0, layers, rest, found, matrices)


def path_name(path) -> str:
    """``head/kernel`` of a path of jax.tree_util."""
    return "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def _layers(shapes, spans, found: LastMatrix | None) -> tuple[tuple[Span, ...], ...]:
    """Matrices and kernels in their order, the last one at the end; inner ones share where many."""
    last = None if found is None else found.kernel
    matrices = [
        span for shape, span in zip(shapes, spans, strict=True) if len(shape) >= 2 and span != last
    ]
    if last is not None:
        matrices.append(last)
    if not matrices:
        return (tuple(spans),)
    if len(matrices) <= MOST_LAYERS:
        return tuple((span,) for span in matrices)
    first, *inner, final = matrices
    parts = np.array_split(np.arange(len(inner)), MOST_LAYERS - 2)
    return ((first,), *(tuple(inner[i] for i in part) for part in parts), (final,))


def _matrices(shapes, spans, found: LastMatrix | None) -> tuple[Matrix, ...]:
    """Matrices and kernels in their order, some of the inner ones left out where there are many.

    The last matrix tells whether outputs come first, as in PyTorch; by default they come last.
    """
    inputs_first = found is None or not found.classes_first

    def of(shape, span):
        outputs = shape[-1] if inputs_first else shape[0]
        return Matrix(span, int(np.prod(shape)) // max(outputs, 1), inputs_first)

    every = [
        of(shape, span)
        for shape, span in zip(shapes, spans, strict=True)
        if len(shape) >= 2 and span.stop > span.start
    ]
    if not every:
        return (Matrix(Span(0, max((s.stop for s in spans), default=0)), 1, True),)
    places = np.unique(np.linspace(0, len(every) - 1, MOST_LAYERS).round().astype(int))
    return tuple(every[i] for i in places)


def _last(params, names, shapes, spans, apply, x, name) -> LastMatrix | None:
    matrices = [i for i, shape in enumerate(shapes) if len(shape) == 2 and min(shape) > 1]
    if name is not None:
        matrices = [names.index(name)]
    if apply is not None and x is not None:
        return _by_logits(params, matrices, shapes, spans, apply, x)
    for i in reversed(matrices):
        narrow = min(shapes[i])
        biases = [j for j, shape in enumerate(shapes) if shape == (narrow,)]
        if biases:
            near = min(biases, key=lambda j, i=i: abs(j - i))
            return LastMatrix(spans[i], shapes[i], shapes[i][0] == narrow, spans[near])
    return None


def _by_logits(params, matrices, shapes, spans, apply, x) -> LastMatrix | None:
    """The matrix of which the gradient of a logit fills one row or one column, and no other."""

    def first_logit(tree):
        return jnp.asarray(apply(tree, x))[:, 0].sum()

    # moved a little: at zero biases and dead units too much has no gradient
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params
    )
    num_classes = int(jax.eval_shape(apply, params, x).shape[-1])
    gradient = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.grad(first_logit)(params))]
    for i in reversed(matrices):
        touched = gradient[i] != 0
        for axis in (0, 1):
            if shapes[i][axis] != num_classes:
                continue
            own, *rest = np.moveaxis(touched, axis, 0)
            if own.any() and not np.any(rest):
                biases = [
                    j
                    for j, shape in enumerate(shapes)
                    if shape == (num_classes,) and gradient[j][0] != 0 and not gradient[j][1:].any()
                ]
                bias = spans[biases[0]] if biases else None
                return LastMatrix(spans[i], shapes[i], axis == 0, bias)
    return None
