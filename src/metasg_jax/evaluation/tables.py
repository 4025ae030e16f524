"""Results as tables: for the terminal, as Markdown and as CSV."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from metasg_jax.evaluation.statistics import mean_se, paired_difference
from metasg_jax.files import whole


class Results(NamedTuple):
    """All outcomes of an evaluation.

    Attributes:
        names: of the J contenders; the first is the learned policy.
        types: names of the K types.
        probabilities: f64[K].
        accuracy: f64[J, S, K] over S seeds.
        asr: f64[J, S, K], NaN for types without a backdoor.
        score: f64[J, S, K].
        diverged: bool[J, S, K].
        curve: f64[J, S, K, P], accuracy along the episode.
        rounds: i64[P].
        action: f64[J, S, K, A], mean actions.
        action_names: A names.
    """

    names: list[str]
    types: list[str]
    probabilities: np.ndarray
    accuracy: np.ndarray
    asr: np.ndarray
    score: np.ndarray
    diverged: np.ndarray
    curve: np.ndarray
    rounds: np.ndarray
    action: np.ndarray
    action_names: list[str]

    def mean_scores(self) -> np.ndarray:
        """f64[J, S]: the score over the prior, a number a seed."""
        return self.score @ self.probabilities


def with_error(mean, error, sign: str = "", digits: int = 3) -> str:
    """``0.812 ± 0.004``; the mean alone where there is no error, nothing where there is no mean.

    Args:
        mean: f64[].
        error: standard error or half width, f64[].
        sign: ``+`` shows it always.
        digits: after the point.
    """
    if np.isnan(mean):
        return ""
    text = f"{mean:{sign}.{digits}f}"
    return text if np.isnan(error) else f"{text} ± {error:.{digits}f}"


def summary_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows: mean score of each contender and the paired lead of the first over it."""
    means = results.mean_scores()
    header = ["defender", "score", "SE", f"{results.names[0]} minus it", "SE", "diverged"]
    rows = []
    for j, name in enumerate(results.names):
        mean, se = mean_se(means[j])
        lead = ("", "")
        if j:
            difference, error = paired_difference(means[0], means[j])
            lead = (f"{difference:+.3f}", _error(error))
        rows.append([name, f"{mean:.3f}", _error(se), *lead, f"{results.diverged[j].mean():.0%}"])
    return header, rows


def type_rows(results: Results, quantity: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of ``accuracy``, ``asr`` or ``score``: contenders down, types across."""
    values = getattr(results, quantity)
    kept = [k for k in range(len(results.types)) if not np.isnan(values[:, :, k]).all()]
    rows = []
    for j, name in enumerate(results.names):
        mean, se = mean_se(values[j])
        rows.append([name, *(f"{mean[k]:.3f} ± {_error(se[k])}" for k in kept)])
    return [quantity, *(results.types[k] for k in kept)], rows


def rich_table(title: str, header: list[str], rows: list[list[str]], numbers: bool = True) -> Table:
    """For the terminal; ``numbers`` stand at the right of their columns."""
    table = Table(title=title, title_justify="left", header_style="bold", pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i and numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """For a file."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write_csv(results: Results, path: Path) -> None:
    """One line for each contender, type and seed."""
    with whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        actions = [f"action_{name}" for name in results.action_names]
        writer.writerow(
            ["defender", "type", "seed", "accuracy", "asr", "score", "diverged", *actions]
        )
        for j, name in enumerate(results.names):
            for k, kind in enumerate(results.types):
                for s in range(results.score.shape[1]):
                    numbers = (q[j, s, k] for q in (results.accuracy, results.asr, results.score))
                    row = [f"{value:.6f}" for value in numbers]
                    chosen = [f"{value:.4f}" for value in results.action[j, s, k]]
                    writer.writerow([name, kind, s, *row, int(results.diverged[j, s, k]), *chosen])


def _error(se: float | np.ndarray) -> str:
    return "–" if np.isnan(se) else f"{se:.3f}"
