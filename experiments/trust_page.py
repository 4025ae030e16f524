"""The page of ``experiments/trust.py``: bottom line first, one table, then the rest."""

import json
from pathlib import Path

import numpy as np

from metasg_jax.evaluation.statistics import crossed_interval, t_interval
from metasg_jax.evaluation.tables import markdown_table

SHIPPED = ("v3", "v1")
TARGETS = {"card": 0.01, "never-met": 0.02}
"""How far from the perfect filter a study's mean may be; 0.05 for all others."""


def write_page(out: Path, studies: dict) -> None:
    """Writes ``trust.md`` beside the folder of results; its opening is kept in ``opening.md``."""
    found = results_in(out, studies)
    text = [(out / "opening.md").read_text().strip(), "\n## The card\n", card(found)]
    text += ["\n## Everywhere else\n", others(found)]
    text += ["\n## What each part adds\n", parts(found)]
    text += ["\n## By type\n", by_type(found)]
    (out.parent / "trust.md").write_text("\n".join(text) + "\n")


def results_in(out: Path, studies: dict) -> dict:
    """The JSON of each study that was played."""
    paths = {name: out / f"{name}.json" for name in studies}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}


def row_of(result: dict, name: str) -> np.ndarray:
    """Scores [worlds, types]."""
    return np.array(next(r["score"] for r in result["rows"] if r["contestant"] == name))


def defenders(result: dict) -> list[str]:
    """The first contestant, and all others that decide about each client: shipped ones and runs."""
    names = [r["contestant"] for r in result["rows"]]
    return [n for n in names if n in (names[0], *SHIPPED) or n.startswith("runs/")]


def runs_in(result: dict) -> list[str]:
    """Defenders that are runs of ours."""
    return [name for name in defenders(result) if name.startswith("runs/")]


def regret(result: dict, name: str) -> tuple[float, float]:
    """Mean regret to the perfect filter and half its 95 % interval over worlds."""
    return t_interval(row_of(result, "told").mean(1) - row_of(result, name).mean(1))


def regret_of_seeds(result: dict) -> tuple[float, float] | None:
    """The same for the training seeds beside the first defender, over seeds and worlds."""
    names = runs_in(result)
    if len(names) < 2:
        return None
    return crossed_interval(
        np.stack([row_of(result, "told").mean(1) - row_of(result, n).mean(1) for n in names])
    )


def pm(pair: tuple[float, float]) -> str:
    """``0.012 ± 0.003``."""
    return f"{pair[0]:+.3f} ± {pair[1]:.3f}"


def card(found: dict) -> str:
    """Scores and regrets of all contestants at the three heterogeneities, and the lead."""
    results = {n.removeprefix("card-"): r for n, r in found.items() if n.startswith("card-")}
    labels: dict[str, dict[str, str]] = {}
    for q, result in results.items():
        names = defenders(result)
        for row in result["rows"]:
            name = row["contestant"]
            if " / fine_tune" in name and name not in result["helped"]:
                continue  # its best help stands there; the rest is in the JSON
            label, text = name, f"{row['mean']:.3f}"
            if name in result["helped"]:
                label = f"{name.split(' / ')[0]}, with its best help"
            if name != "told":
                text += f" ({pm(regret(result, name))})"
            if name in result["helped"]:
                text += f" [{name.partition(' / ')[2] or 'none'}]"
            if name == names[0]:
                label, text = f"**`{name}`**", f"**{text}**"
            labels.setdefault(label, {})[q] = text
        seeds = found.get(f"seeds-{q}")
        if seeds and (several := regret_of_seeds(seeds)):
            label = f"its recipe, {len(runs_in(seeds))} seeds with a third of the worlds"
            labels.setdefault(label, {})[q] = f"regret {pm(several)}"
        lead = f"`{names[0]}` minus the best static rule, paired"
        labels.setdefault(lead, {})[q] = pm(lead_of(result))
    shown = sorted(labels, key=lambda label: " minus " in label)
    rows = [[label, *(labels[label].get(q, "") for q in results)] for label in shown]
    worlds = ", ".join(f"{len(r['worlds'])} at {q}" for q, r in results.items())
    table = markdown_table(["score (regret)", *(f"q = {q}" for q in results)], rows)
    return f"Final worlds: {worlds}.\n\n{table}"


def lead_of(result: dict) -> tuple[float, float]:
    """What the first defender scores above the best static rule, paired over worlds."""
    told = result["rows"].index(next(r for r in result["rows"] if r["contestant"] == "told"))
    static = [
        r["contestant"]
        for r in result["rows"][told + 1 :]
        if "shuffled" not in r["contestant"] and r["contestant"] != "untrained"
    ]
    best = max(static, key=lambda name: row_of(result, name).mean())
    first = defenders(result)[0]
    return t_interval(row_of(result, first).mean(1) - row_of(result, best).mean(1))


def others(found: dict) -> str:
    """One line a study: scores of the newest defender there, and regrets beside the target."""
    rows = []
    for name, result in found.items():
        if name.startswith(("card-", "seeds-", "parts-")):
            continue
        first = max(name for name in defenders(result) if name in SHIPPED)
        mean, half = regret(result, first)
        each = row_of(result, first)
        gap = (row_of(result, "told") - each).mean(0)
        worst = int(gap.argmax())
        target = next((t for key, t in TARGETS.items() if name.startswith(key)), 0.05)
        met = "target" if mean <= target else "**missed:**"
        ours = (*defenders(result), "told")
        best = max(
            (r["mean"] for r in result["rows"] if r["contestant"] not in ours), default=np.nan
        )
        rows.append(
            [f"{name} ({len(result['worlds'])})", f"{each.mean():.3f} ({first})",
             f"{row_of(result, 'told').mean():.3f}", f"{pm((mean, half))} ({met} {target})",
             f"{result['types'][worst]} {gap[worst]:+.3f}", pm(regret(result, "v1")), f"{best:.3f}"]
        )  # fmt: skip
    header = ["study (worlds)", "score", "perfect filter", "regret", "worst type", "regret of v1",
              "best beside it"]  # fmt: skip
    return markdown_table(header, rows)


LEFT_OUT = {
    "runs/all": "all (two seeds' lessons, 56 worlds)",
    "runs/without-own_play": "no own play: a told filter's rounds alone, 28 worlds",
    "runs/without-breadth": "no breadth: the card's shape of worlds alone, 8 of them",
    "runs/without-context": "no context: each client is judged by itself",
    "runs/defender-3": "one seed's lessons, 28 worlds",
    "runs/real-3": "the same, of clients with real images",
}
"""What defenders were taught without."""


def parts(found: dict) -> str:
    """Regrets of defenders that were taught without a part, a column a study."""
    studies = {n.removeprefix("parts-"): r for n, r in found.items() if n.startswith("parts-")}
    rows = []
    for run, label in LEFT_OUT.items():
        played = [run in defenders(result) for result in studies.values()]
        if any(played):
            pairs = zip(played, studies.values(), strict=True)
            rows.append([label, *(pm(regret(r, run)) if yes else "" for yes, r in pairs)])
    return markdown_table(["taught with", *(f"regret, {name}" for name in studies)], rows)


def by_type(found: dict) -> str:
    """Table of the card: learned minus perfect filter, and what is kept."""
    parts = []
    for name, result in found.items():
        if name not in ("card-0.5", "card-0.9"):
            continue
        names = defenders(result)[:1]
        rows = []
        for k, kind in enumerate(result["types"]):
            own = np.mean([row_of(result, n)[:, k].mean() for n in names])
            told = row_of(result, "told")[:, k].mean()
            kept = np.array(
                [r["kept"] for r in result["rows"] if r["contestant"] in names], float
            )[:, :, k].mean((0, 1))  # fmt: skip
            rows.append([kind, f"{own:.3f}", f"{told:.3f}", f"{kept[0]:.2f}", f"{kept[1]:.2f}"])
        header = [name, f"`{names[0]}`", "perfect filter", "honest kept", "malicious kept"]
        parts.append(markdown_table(header, rows))
    return "\n".join(parts)
