"""Pictures, drawn without a display and without touching a notebook's."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from metasg_jax.evaluation.matrix import Matrix
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
    _save(figure, path)


def over_rounds(panels: dict[str, dict[str, np.ndarray]], rounds: np.ndarray, path: Path) -> None:
    """Shares over rounds: a panel each, a line a defence with a band of one standard error.

    Args:
        panels: by title, by defence: f64[S, P] of S worlds; NaN is left out. The first line of a
            panel is ours, and drawn bold.
        rounds: i64[P].
        path: of the picture.
    """
    figure = Figure(figsize=(5.2 * len(panels), 4.6))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for j, (name, values) in enumerate(lines.items()):
            mean, se = mean_se(values)
            color, width = ("black", 2.4) if j == 0 else (f"C{(j - 1) % 10}", 1.3)
            axis.plot(rounds, mean, color=color, lw=width, label=name)
            axis.fill_between(rounds, mean - se, mean + se, color=color, alpha=0.12, lw=0)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("round")
        axis.set_ylim(0, 1)
        axis.grid(alpha=0.25)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=2, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.035 * (1 + len(labels)) / 2, 1, 1))
    _save(figure, path)


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
    _save(figure, path)


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
    _save(figure, path)


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
    _save(figure, path)


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
    _save(figure, path)


def adaptation(
    rows: Sequence[dict], types: Sequence[str], knobs: Sequence[str], title: str, path: Path
) -> None:
    """A run with adaptation over its rounds: belief, actions, rewards, and the guard's decisions.

    Args:
        rows: a block each, as adapt.csv has them.
        types: that the belief is over.
        knobs: of the policy.
        title: above the first panel.
        path: of the picture.
    """
    rounds = [row["round"] for row in rows]
    figure = Figure(figsize=(8, 8.4), layout="constrained")
    beliefs, actions, rewards = figure.subplots(3, 1, sharex=True)
    shares = [[row[f"belief {name}"] for row in rows] for name in types]
    beliefs.stackplot(
        rounds, shares, labels=types, colors=[f"C{k % 10}" for k in range(len(types))]
    )
    beliefs.set_ylabel("belief")
    beliefs.set_ylim(0, 1)
    beliefs.set_title(title, fontsize=10)
    for knob in knobs:
        actions.plot(rounds, [row[knob] for row in rows], marker="o", ms=3, label=knob)
    actions.set_ylabel("mean action of the block")
    actions.set_ylim(-1.05, 1.05)
    for name, color in (("estimated reward", "black"), ("hidden reward", "tab:red")):
        rewards.plot(rounds, [row[name] for row in rows], color=color, label=name)
    for decision, marker in (("accepted", "^"), ("rejected", "x")):
        there = [row for row in rows if row["decision"] == decision]
        rewards.plot(
            [row["round"] for row in there], [row["estimated reward"] for row in there],
            marker, color="tab:blue", ls="", label=f"candidate {decision}",
        )  # fmt: skip
    rewards.set_ylabel("reward a round")
    rewards.set_xlabel("round")
    for axis in (beliefs, actions, rewards):
        axis.grid(alpha=0.25)
        axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, path)


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
    _save(figure, path)


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
    _save(figure, path)


def _save(figure, path: Path) -> None:
    figure.savefig(path, dpi=140)
