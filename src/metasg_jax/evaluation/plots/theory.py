"""Residuals along a run, and rates on logarithmic axes."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from metasg_jax.evaluation.plots.save import save


def residual_course(series: dict[tuple[str, str], list], path: Path) -> None:
    """Residuals over meta-steps, with one standard error.

    First the headline's squared norm, whose estimate is unbiased and may be negative, and the
    square of the plain norm for comparison. Then norms on a log scale: the defender's, the average
    over the prior in black, and the attackers', if there are any; where one is not resolved an
    arrow hangs from its upper 95 % bound. In full, and with what the defender adapts to held fixed.

    Args:
        series: by (type, quantity), rows with step, estimate, error, bound, plain, squared and
            squared_error; the first is the headline. Quantities are ``defender``, ``defender
            fixed``, ``attacker``, ``attacker fixed``.
        path: of the picture.
    """
    titles = {
        "defender": "defender",
        "defender fixed": "defender, law of the adaptation's episodes fixed",
        "attacker": "attackers",
    }
    there = {quantity for _, quantity in series}
    titles = {player: title for player, title in titles.items() if player in there}
    height = (len(titles) + 2) // 2
    figure = Figure(figsize=(11, 5.2 * height))
    first, *others = figure.subplots(height, 2).flat
    for axis in others[len(titles) :]:
        axis.set_visible(False)
    others = others[: len(titles)]
    kind, headline = next(iter(series.items()))
    steps, squared, error, plain = _columns(headline, "step", "squared", "squared_error", "plain")
    first.axhline(0.0, color="black", lw=0.8)
    first.plot(steps, plain**2, color="tab:red", ls="--", lw=1.2, label="plain norm, biased up")
    first.errorbar(
        steps, squared, error, color="black", fmt="o-", lw=1.8, ms=5, capsize=4,
        label="mean over pairs of batches",
    )  # fmt: skip
    first.set_title("defender, average over the prior", fontsize=9)
    first.set_ylabel("squared norm of the gradient")
    first.legend(frameon=False, fontsize=8)
    for axis, (player, title) in zip(others, titles.items(), strict=True):
        shown = [player] if player != "attacker" else ["attacker", "attacker fixed"]
        lines = {key: rows for key, rows in series.items() if key[1] in shown}
        for i, ((name, quantity), rows) in enumerate(lines.items()):
            main = name == kind[0]
            label = "average over the prior" if main else name
            if player == "attacker":
                label += ", adaptation fixed" if quantity.endswith("fixed") else ", in full"
            _norms(axis, rows, label, "black" if main else f"C{i % 10}", 2.2 if main else 0.7)
        axis.set_yscale("log")
        axis.set_ylabel("norm of the gradient")
        axis.set_title(title, fontsize=9)
        axis.legend(
            frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12)
        )
    for axis in (first, *others):
        axis.set_xlabel("meta-step")
        axis.grid(alpha=0.25, which="both")
    figure.tight_layout()
    save(figure, path)


def _norms(axis, rows: list, label: str, color: str, width: float) -> None:
    steps, estimates, errors, bounds = _columns(rows, "step", "estimate", "error", "bound")
    resolved = np.isfinite(estimates)
    axis.plot(steps, estimates, color=color, lw=width, alpha=0.7, label=label)
    axis.errorbar(
        steps[resolved], estimates[resolved], errors[resolved], fmt="o",
        color=color, lw=width, ms=2 * width + 1, capsize=2 * width,
    )  # fmt: skip
    axis.plot(
        steps[~resolved], bounds[~resolved], color=color, ls="",
        marker=r"$\downarrow$", ms=6 + 2 * width,
    )  # fmt: skip


def _columns(rows: list, *names: str) -> list[np.ndarray]:
    return [np.array([getattr(row, name) for row in rows], np.float64) for name in names]


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a :class:`Panel`.

    Attributes:
        label: its name in the legend.
        x: f64[n].
        y: f64[n], or f64[S, n] over S seeds: their geometric mean is drawn, a band of their range.
        dashed: a line without markers, for what a theory predicts.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """Lines that share axes.

    Attributes:
        title: above it.
        xlabel: below it.
        ylabel: beside it.
        lines: what is drawn.
        log_y: whether the vertical axis is logarithmic; the horizontal one always is.
    """

    title: str
    xlabel: str
    ylabel: str
    lines: Sequence[Line]
    log_y: bool = True


def log_log(panels: Sequence[Panel], path: Path, columns: int = 2) -> None:
    """Panels with logarithmic axes; values that aren't finite or positive are left out."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.8 * rows))
    axes = figure.subplots(rows, columns, squeeze=False)
    for i, axis in enumerate(axes.flat):
        if i >= len(panels):
            axis.set_visible(False)
            continue
        panel = panels[i]
        for j, line in enumerate(panel.lines):
            y = np.atleast_2d(np.asarray(line.y, np.float64))
            whole = (np.isfinite(y) & (y > 0)).all(axis=0)
            if not whole.any():
                continue
            x, y = np.asarray(line.x, np.float64)[whole], y[:, whole]
            style = dict(color="0.5", ls="--", lw=1.0) if line.dashed else dict(marker="o", ms=3)
            color = {} if line.dashed else dict(color=f"C{j % 10}")
            axis.plot(x, np.exp(np.log(y).mean(axis=0)), label=line.label, **style, **color)
            if len(y) > 1:
                axis.fill_between(x, y.min(axis=0), y.max(axis=0), alpha=0.15, lw=0, **color)
        axis.set_xscale("log")
        if panel.log_y:
            axis.set_yscale("log")
        axis.set_title(panel.title, fontsize=10)
        axis.set_xlabel(panel.xlabel)
        axis.set_ylabel(panel.ylabel)
        axis.grid(alpha=0.25, which="both", lw=0.5)
        if axis.lines:
            low, high = axis.get_xlim()
            if high < 20 * low:  # so few decades have hardly a tick of their own
                axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axis.xaxis.set_minor_formatter(NullFormatter())
            axis.legend(fontsize=7, framealpha=0.8)
    figure.tight_layout()
    save(figure, path)
