"""Images for a person to look at."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from metasg_jax.evaluation.plots.save import save


def image_grid(images: np.ndarray, labels: np.ndarray, path: Path, each: int = 12) -> None:
    """The first images of each label, a row a label.

    Args:
        images: u8[S, h, w, c], c of 1 or 3.
        labels: i32[S].
        path: of the picture.
        each: how many of a label.
    """
    kinds = np.unique(labels)
    # a grey line between neighbours
    framed = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=96)
    shape, rows = framed.shape[1:], []
    for kind in kinds:
        few = framed[labels == kind][:each]
        blank = np.zeros((each - len(few), *shape), images.dtype)
        rows.append(np.concatenate([*few, *blank], axis=1))
    figure = Figure(figsize=(0.5 * each, 0.5 * len(kinds)))
    axis = figure.add_axes((0.06, 0, 0.94, 1))
    whole = np.concatenate(rows)
    axis.imshow(whole if shape[-1] == 3 else whole[..., 0], cmap="gray", vmin=0, vmax=255)
    axis.set_xticks([])
    axis.set_yticks((np.arange(len(kinds)) + 0.5) * shape[0], [str(kind) for kind in kinds])
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)
    save(figure, path)
