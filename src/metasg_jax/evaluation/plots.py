"""Pictures, drawn without a display and without touching a notebook's."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from metasg_jax.evaluation.statistics import mean_se
from metasg_jax.evaluation.tables import Results

_EMPHASIS = {
    "learned": ("black", 2.4),
    "best_fixed": ("tab:red", 1.8),
    "oracle": ("tab:green", 1.4),
}
_OTHERS = ("tab:olive", "tab:orange", "tab:blue", "tab:cyan", "tab:purple", "tab:brown", "tab:pink")


def accuracy_curves(results: Results, path: Path) -> None:
    """Accuracy over rounds, a panel a type, a line a defender, a band of one standard error."""
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
        axis.set_title(results.types[i], fontsize=9)
        axis.set_ylim(0, 1)
        axis.grid(alpha=0.25)
    for axis in axes[-1]:
        axis.set_xlabel("round")
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=min(9, len(labels)), frameon=False)
    figure.tight_layout(rect=(0, 0.12 / rows, 1, 1))
    _save(figure, path)


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
    _save(figure, path)


def residual_course(series: dict[tuple[str, str], list], path: Path) -> None:
    """Residuals over meta-steps, with one standard error.

    First the headline's squared norm, whose estimate is unbiased and may be negative, and the
    square of the plain norm for comparison. Then norms on a log scale: the defender's, the average
    over the prior in black, and the attackers'; where one is not resolved an arrow hangs from its
    upper 95 % bound.

    Args:
        series: by (type, quantity), rows with step, estimate, error, bound, plain, squared and
            squared_error; the first is the headline.
        path: of the picture.
    """
    panels = [
        (title, {key: rows for key, rows in series.items() if key[1].startswith(player)})
        for title, player in (("defender", "defender"), ("attackers", "attacker"))
    ]
    panels = [(title, lines) for title, lines in panels if lines]
    figure = Figure(figsize=(5.4 * (len(panels) + 1), 5.6))
    first, *others = figure.subplots(1, len(panels) + 1)
    headline = next(iter(series.values()))
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
    for axis, (title, lines) in zip(others, panels, strict=True):
        for i, ((kind, quantity), rows) in enumerate(lines.items()):
            main = rows is headline
            label = "average over the prior" if main else kind
            if quantity != "defender":
                label = f"{kind}, {quantity.removeprefix('attacker ')}"
            _norms(axis, rows, label, "black" if main else f"C{i % 10}", 2.2 if main else 0.7)
        axis.set_yscale("log")
        axis.set_ylabel("norm of the gradient")
        axis.set_title(f"{title} (arrow: unresolved, below its 95 % bound)", fontsize=9)
        axis.legend(
            frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12)
        )
    for axis in (first, *others):
        axis.set_xlabel("meta-step")
        axis.grid(alpha=0.25, which="both")
    figure.tight_layout()
    _save(figure, path)


def _norms(axis, rows: list, label: str, color: str, width: float) -> None:
    steps, estimates, errors, bounds = _columns(rows, "step", "estimate", "error", "bound")
    resolved = np.isfinite(estimates)
    level = np.where(resolved, estimates, bounds)
    axis.plot(steps, level, color=color, lw=width, alpha=0.7, label=label)
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


def _save(figure, path: Path) -> None:
    figure.savefig(path, dpi=140)
