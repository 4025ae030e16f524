"""Defenders side by side: bars, worst cases, maps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from metasg_jax.evaluation.matrix import Matrix
from metasg_jax.evaluation.plots.save import save


def recovery_bars(recovery: dict[str, np.ndarray], path: Path) -> None:
    """Mean gap recovery of each defender, a dot a training seed.

    Args:
        recovery: by name, f64[T]; 0 is the best fixed action, 1 the per-type oracle.
        path: of the picture.
    """
    figure = Figure(figsize=(7.5, 1.2 + 0.36 * len(recovery)))
    axis = figure.subplots()
    names = sorted(recovery, key=lambda name: recovery[name].mean())
    axis.axvline(0, color="tab:red", lw=1.2, label="best fixed action")
    axis.axvline(1, color="tab:green", lw=1.2, label="per-type oracle")
    for row, name in enumerate(names):
        values = recovery[name]
        axis.barh(row, values.mean(), color="0.8", height=0.6)
        axis.plot(values, np.full(len(values), row), "o", ms=4, color="black")
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_xlabel("share of the gap recovered")
    axis.grid(alpha=0.25, axis="x")
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    figure.tight_layout()
    save(figure, path)


def worst_cases(rows: Sequence[tuple[str, float, float, float]], path: Path) -> None:
    """The score of each defence under three kinds of opponents, the most robust on top.

    Args:
        rows: (defence, under the worst fixed attack, under the worst tailored to its rule, under
            the worst that learned), the most robust first.
        path: where the figure goes.
    """
    figure = Figure(figsize=(8.5, 1.4 + 0.36 * len(rows)))
    axis = figure.subplots()
    places = np.arange(len(rows))[::-1]
    kinds = ("fixed", "tailored to the rule", "learned")
    for j, (kind, marker) in enumerate(zip(kinds, "osD", strict=True)):
        axis.plot([row[1 + j] for row in rows], places, marker, ms=5, label=kind)
    lowest = [min(row[1:]) for row in rows]
    axis.hlines(places, lowest, [max(row[1:]) for row in rows], color="0.8", zorder=0)
    # a long name takes two lines: a rule, and the post-training defence after it
    axis.set_yticks(places, [row[0].replace(" / ", "\n/ ") for row in rows], fontsize=7)
    axis.set_xlabel("score under the worst attack of each kind")
    axis.grid(alpha=0.25, axis="x")
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    save(figure, path)


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


def gap_map(
    gaps: np.ndarray, leads: np.ndarray, levels: Sequence, shares: Sequence, path: Path
) -> None:
    """What adaptation is worth, and what a policy makes of it, in points of the score.

    Args:
        gaps: f64[L, S], per-type oracle minus best fixed action.
        leads: f64[L, S], the policy minus best fixed action.
        levels: heterogeneities q, L of them.
        shares: of malicious clients, S of them.
        path: of the picture.
    """
    figure = Figure(figsize=(8.2, 3.4), layout="constrained")
    most = 100 * max(np.abs(gaps).max(), np.abs(leads).max())
    scale = ScalarMappable(Normalize(-most, most), "RdBu")
    titles = ("gap: oracle - best fixed", "learned - best fixed")
    for axis, values, title in zip(figure.subplots(1, 2), (gaps, leads), titles, strict=True):
        axis.imshow(100 * values, cmap=scale.cmap, norm=scale.norm, aspect="auto")
        for row, column in np.ndindex(*values.shape):
            value = 100 * values[row, column]
            color = "white" if abs(value) > 0.6 * most else "black"
            axis.text(column, row, f"{value:+.1f}", ha="center", va="center", color=color)
        axis.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
        axis.set_yticks(range(len(levels)), [f"q = {level:g}" for level in levels])
        axis.set_xlabel("malicious clients")
        axis.set_title(title, fontsize=10)
    figure.colorbar(scale, ax=figure.axes, label="points of the score")
    save(figure, path)
