"""The page of ``experiments/trust.py``: bottom line first, one table, then the rest."""

import json
from pathlib import Path

import numpy as np

from metasg_jax.evaluation.statistics import crossed_interval, t_interval
from metasg_jax.evaluation.tables import markdown_table

TARGETS = {"card": 0.01, "never-met": 0.02}
"""How far from the perfect filter a study's mean may be; 0.05 for all others."""


def write_page(out: Path, studies: dict) -> None:
    """Writes ``trust.md`` beside the folder of results; its opening is kept in ``opening.md``."""
    found = {
        name: json.loads((out / f"{name}.json").read_text())
        for name in studies
        if (out / f"{name}.json").is_file()
    }
    text = [(out / "opening.md").read_text().strip(), "\n## The card\n", card(found)]
    text += ["\n## Everywhere else\n", others(found)]
    text += ["\n## By type\n", by_type(found)]
    (out.parent / "trust.md").write_text("\n".join(text) + "\n")


def row_of(result: dict, name: str) -> np.ndarray:
    """Scores [worlds, types]."""
    return np.array(next(r["score"] for r in result["rows"] if r["contestant"] == name))


def defenders(result: dict) -> list[str]:
    """Those before ``told`` in the order of play."""
    names = [r["contestant"] for r in result["rows"]]
    return names[: names.index("told")]


def regret(result: dict, name: str) -> tuple[float, float]:
    """Mean regret to the perfect filter and half its 95 % interval over worlds."""
    return t_interval(row_of(result, "told").mean(1) - row_of(result, name).mean(1))


def learned_regret(result: dict) -> tuple[float, float]:
    """The same for the learned ones, over training seeds and worlds where there are several."""
    names = defenders(result)
    each = np.stack([row_of(result, "told").mean(1) - row_of(result, n).mean(1) for n in names])
    return crossed_interval(each) if len(names) > 1 else t_interval(each[0])


def pm(pair: tuple[float, float]) -> str:
    """``0.012 ± 0.003``."""
    return f"{pair[0]:+.3f} ± {pair[1]:.3f}"


def card(found: dict) -> str:
    """Scores and regrets of all contestants at the three heterogeneities."""
    results = {n.removeprefix("card-"): r for n, r in found.items() if n.startswith("card-")}
    labels: dict[str, dict[str, str]] = {}
    for q, result in results.items():
        learned = np.mean([row_of(result, n).mean() for n in defenders(result)])
        labels.setdefault("**learned**", {})[q] = (
            f"**{learned:.3f}** ({pm(learned_regret(result))})"
        )
        for row in result["rows"]:
            name = row["contestant"]
            if name in defenders(result):
                continue
            label = name
            if name in result["helped"]:
                label = f"{name.split(' / ')[0]}, with its best help"
                how = name.partition(" / ")[2] or "none"
            text = f"{row['mean']:.3f}"
            if name != "told":
                text += f" ({pm(regret(result, name))})"
            if name in result["helped"]:
                text += f" [{how}]"
            labels.setdefault(label, {})[q] = text
    rows = [[label, *(cells.get(q, "") for q in results)] for label, cells in labels.items()]
    return markdown_table(["score (regret)", *(f"q = {q}" for q in results)], rows)


def others(found: dict) -> str:
    """One line a study: the defender, the perfect filter, and the regret beside its target."""
    rows = []
    for name, result in found.items():
        if name.startswith("card-"):
            continue
        mean, half = learned_regret(result)
        each = np.mean([row_of(result, n) for n in defenders(result)], axis=0)
        gap = (row_of(result, "told") - each).mean(0)
        worst = int(gap.argmax())
        target = next((t for key, t in TARGETS.items() if name.startswith(key)), 0.05)
        rest = [r for r in result["rows"] if r["contestant"] not in (*defenders(result), "told")]
        rows.append(
            [name, str(len(result["worlds"])), f"{each.mean():.3f}",
             f"{row_of(result, 'told').mean():.3f}", f"{mean:+.3f} ± {half:.3f}", f"{target}",
             "met" if mean <= target else "**missed**",
             f"{result['types'][worst]} {gap[worst]:+.3f}",
             ", ".join(f"{r['contestant']} {r['mean']:.3f}" for r in rest)]
        )  # fmt: skip
    header = ["study", "worlds", "learned", "perfect filter", "regret", "target", "", "worst type",
              "beside it"]  # fmt: skip
    return markdown_table(header, rows)


def by_type(found: dict) -> str:
    """Of the card: learned minus perfect filter, and what is kept."""
    parts = []
    for name, result in found.items():
        if not name.startswith(("card-", "never-met")):
            continue
        names = defenders(result)
        rows = []
        for k, kind in enumerate(result["types"]):
            own = np.mean([row_of(result, n)[:, k].mean() for n in names])
            told = row_of(result, "told")[:, k].mean()
            kept = np.array(
                [r["kept"] for r in result["rows"] if r["contestant"] in names], float
            )[:, :, k].mean((0, 1))  # fmt: skip
            rows.append([kind, f"{own:.3f}", f"{told:.3f}", f"{kept[0]:.2f}", f"{kept[1]:.2f}"])
        header = [name, "learned", "perfect filter", "honest kept", "malicious kept"]
        parts.append(markdown_table(header, rows))
    return "\n".join(parts)
