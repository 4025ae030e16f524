"""The page of results: an opening written by hand, and tables of the JSON files beside it.

python -m examples.flower.page        # docs/results/flower/*.json -> docs/results/flower.md
"""

import itertools
import json
from pathlib import Path

from examples.flower.table import has_trigger, spread, summary

FOLDER = Path("docs/results/flower")
FORMS = {
    "deployed": "A SuperLink and ten SuperNodes, each a process",
    "in process": "The same clients, mods and strategies in one process",
}
DATASETS = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
FRAMEWORKS = {"jax": "JAX", "torch": "PyTorch"}


def page(opening: str, results: list[dict]) -> str:
    """Markdown: a section for each form, data set and framework, a table for each attack."""
    parts = [opening.strip()]
    rows = summary(results)
    for form, dataset, framework in itertools.product(FORMS, DATASETS, FRAMEWORKS):
        where = {"form": form, "dataset": dataset, "framework": framework}
        mine = [r for r in rows if all(r[k] == v for k, v in where.items())]
        if mine:
            parts.append(f"## {FORMS[form]}: {DATASETS[dataset]}, {FRAMEWORKS[framework]}")
            by_attack: dict[str, list[dict]] = {}
            for row in mine:
                by_attack.setdefault(row["attack"], []).append(row)
            short = [attack for attack, rows in by_attack.items() if _fits_a_line(attack, rows)]
            parts += [_table(a, rows) for a, rows in by_attack.items() if a not in short]
            if short:
                parts.append(_lines([by_attack[attack][0] for attack in short]))
    return "\n\n".join(parts) + "\n"


def _table(attack: str, rows: list[dict]) -> str:
    triggered = has_trigger(attack)
    names = ["strategy", "accuracy", *(["attack success"] if triggered else [])]
    names += ["seconds a round", "seconds of defence", "seeds"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in sorted(rows, key=lambda r: -(r["accuracy"] - triggered * r["success"])):
        name = row["strategy"].replace(":", ", ")
        name = f"**{name}**" if name.startswith("TrustedFedAvg") else name
        cells = [name, spread(row, "accuracy")]
        cells += [spread(row, "success")] if triggered else []
        cells += [f"{row['seconds']:.2f}", f"{row['defence']:.3f}", str(row["seeds"])]
        lines.append("| " + " | ".join(cells) + " |")
    stopped = [f"{row['strategy']} stopped: {row['failed'][0]}" for row in rows if row["failed"]]
    whose = "no attack" if attack == "none" else f"`{attack}`"
    return "\n".join([f"Attack: {whose}.", "", *lines, *([""] if stopped else []), *stopped])


def _fits_a_line(attack: str, rows: list[dict]) -> bool:
    """Whether one strategy met it, to the end, and accuracy says all."""
    return len(rows) == 1 and not has_trigger(attack) and not rows[0]["failed"]


def _lines(rows: list[dict]) -> str:
    """One table of attacks that one strategy met."""
    lines = ["Others.", "", "| strategy, attack | accuracy | seeds |", "|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['strategy']}, `{row['attack']}` | {spread(row, 'accuracy')} | {row['seeds']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Writes the page."""
    results = []
    for path in sorted(FOLDER.glob("*.json")):
        results += json.loads(path.read_text())["results"]
    opening = (FOLDER / "opening.md").read_text()
    FOLDER.with_suffix(".md").write_text(page(opening, results))


if __name__ == "__main__":
    main()
