"""Lines over rounds, meta-steps or what else is varied."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from metasg_jax.evaluation.plots.save import save
from metasg_jax.evaluation.statistics import mean_se
from metasg_jax.evaluation.tables import Results

_EMPHASIS = {
    "learned": ("black", 2.4),
    "best_fixed": ("tab:red", 1.8),
    "oracle": ("tab:green", 1.4),
}


_OTHERS = ("tab:olive", "tab:orange", "tab:blue", "tab:cyan", "tab:purple", "tab:brown", "tab:pink")


def accuracy_curves(results: Results, path: Path, note: str = "") -> None:
    """Accuracy over rounds, a panel a type, a line a defender, a band of one standard error.

    A type with a backdoor has each defender's attack success after the last round as a cross; what
    is asked for is a line that ends high and a cross that lies low. ``note`` stands on top.
    """
    k = len(results.types)
    columns = min(3, k)
    rows = -(-k // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows))
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for i, axis in enumerate(axes.flat):
        if i >= k:
            axis.set_visible(False)
            continue
        for j, name in enumerate(results.names):
            mean, se = mean_se(results.curve[j, :, i])
            color, width = _EMPHASIS.get(name, (_OTHERS[j % len(_OTHERS)], 1.0))
            axis.plot(results.rounds, mean, color=color, lw=width, label=name)
            if name in _EMPHASIS:
                axis.fill_between(
                    results.rounds, mean - se, mean + se, color=color, alpha=0.15, lw=0
                )
            success = results.asr[j, :, i]
            if np.isfinite(success).any():
                axis.plot(
                    results.rounds[-1], np.nanmean(success), "x", color=color, ms=7, clip_on=False
                )
        axis.set_title(results.types[i], fontsize=9)
        axis.set_ylim(0, 1)
        axis.grid(alpha=0.25)
    for axis in axes[-1]:
        axis.set_xlabel("round")
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy; x: attack success")
    if note:
        figure.suptitle(note, fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=min(9, len(labels)), frameon=False)
    figure.tight_layout(rect=(0, 0.12 / rows, 1, 1))
    save(figure, path)


def simulation_curves(rows: Sequence[dict], title: str, path: Path) -> None:
    """Accuracy and, in red, attack success over rounds; a line a post-training defence.

    Args:
        rows: with round, post, seed, accuracy and asr; the mean over seeds is drawn.
        title: above the axes.
        path: of the picture.
    """
    figure = Figure(figsize=(6.4, 3.8))
    axis = figure.subplots()
    posts, rounds = list({row["post"]: 0 for row in rows}), sorted({row["round"] for row in rows})
    for p, post in enumerate(posts):
        for name, color in (("accuracy", "black"), ("asr", "tab:red")):
            mean = [
                np.mean([float(r[name]) for r in rows if r["post"] == post and r["round"] == t])
                for t in rounds
            ]
            if not np.isnan(mean).all():
                style = ("-", "--", ":", "-.")[p % 4]
                label = {"accuracy": "accuracy", "asr": "attack success"}[name]
                axis.plot(rounds, mean, color=color, ls=style, label=f"{label}, {post}")
    axis.set_ylim(0, 1)
    axis.set_xlabel("round")
    axis.set_title(title, fontsize=9)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    save(figure, path)


def learning_curve(steps: np.ndarray, returns: np.ndarray, finals: np.ndarray, path: Path) -> None:
    """Mean reward over meta-steps: of whole episodes, and of their last tenth."""
    figure = Figure(figsize=(6, 3.4))
    axis = figure.subplots()
    axis.plot(steps, returns, color="tab:blue", label="whole episode")
    axis.plot(steps, finals, color="black", label="last tenth")
    axis.set_xlabel("meta-step")
    axis.set_ylabel("defender's reward per round")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    figure.tight_layout()
    save(figure, path)
