"""Attacks against defences as a map of colours."""

from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from metasg_jax.evaluation.matrix import Matrix
from metasg_jax.evaluation.plots.save import save


def heat_map(matrix: Matrix, path: Path) -> None:
    """Mean scores, attacks down and rules across, a panel a post-training defence.

    The last row of a panel is each defence's worst case.
    """
    count, (k, j) = len(matrix.posts), matrix.score.shape[:2]
    # one below the other: side by side, their labels would run into each other
    height = count * (0.6 + 0.26 * (k + 1)) + 2.2
    figure = Figure(figsize=(4.2 + 0.46 * j, height), layout="constrained")
    panels = figure.subplots(count, 1, squeeze=False, sharex=True).flat
    scale = ScalarMappable(Normalize(-0.2, 1.0), "viridis")
    for p, axis in enumerate(panels):
        mean = matrix.score[:, :, p].mean(axis=-1)
        values = np.concatenate([mean, mean.min(axis=0, keepdims=True)])
        axis.imshow(values, cmap=scale.cmap, norm=scale.norm, aspect="auto")
        for row, column in np.ndindex(*values.shape):
            value = values[row, column]
            color = "white" if value < 0.5 else "black"
            text = f"{value:.2f}".replace("0.", ".") if np.isfinite(value) else ""
            axis.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
        axis.axhline(k - 0.5, color="white", lw=2)
        axis.set_yticks(range(k + 1), [*matrix.attacks, "worst case"], fontsize=8)
        axis.set_title(f"post-training defence: {matrix.posts[p]}", fontsize=10)
    axis.set_xticks(range(j), matrix.rules, fontsize=8, rotation=60, ha="right")
    figure.colorbar(
        scale, ax=figure.axes, label="score: accuracy - attack success", fraction=0.02, pad=0.01
    )
    save(figure, path)
