"""What came of federations, as a table."""

import numpy as np

LAST = 3
"""Rounds at the end whose mean counts."""


def numbers(result: dict) -> dict[str, float]:
    """Accuracy and attack success at the end of a federation, seconds a round and of defence."""
    rounds = result["rounds"][1:] or result["rounds"]
    last = rounds[-LAST:]
    # the first rounds compile
    later = slice(2, None) if len(rounds) > 4 else slice(None)
    return {
        "accuracy": float(np.mean([r["accuracy"] for r in last])),
        "success": float(np.mean([r["attack_success"] for r in last])),
        "seconds": float(np.median([r["seconds"] for r in rounds[later]])),
        "defence": float(np.median(result["defence"][later] or [np.nan])),
    }


def has_trigger(attack: str) -> bool:
    """Whether success is of a trigger that somebody planted."""
    return attack.partition(":")[0] in ("bfl", "dba", "neurotoxin")


def summary(results: list[dict]) -> list[dict]:
    """Means over seeds, with their standard deviations, by form, framework, attack, strategy."""
    groups: dict[tuple, list[dict]] = {}
    for r in results:
        key = tuple(r.get(k, "") for k in ("form", "dataset", "framework", "attack", "strategy"))
        groups.setdefault(key, []).append(r)
    rows = []
    for key, group in groups.items():
        each = [numbers(r) for r in group]
        row = dict(zip(("form", "dataset", "framework", "attack", "strategy"), key, strict=True))
        for name in each[0]:
            values = [e[name] for e in each]
            row[name] = float(np.mean(values))
            row[f"{name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
        row["seeds"], row["failed"] = len(group), [r["failed"] for r in group if r["failed"]]
        rows.append(row)
    return rows


def table(results: list[dict]) -> str:
    """Lines of text."""
    lines = [
        f"{'attack':20}{'strategy':15}{'accuracy':>15}{'attack success':>16}"
        f"{'s/round':>9}{'s defence':>11}"
    ]
    for row in summary(results):
        success = spread(row, "success") if has_trigger(row["attack"]) else "-"
        lines.append(
            f"{row['attack']:20}{row['strategy']:15}{spread(row, 'accuracy'):>15}{success:>16}"
            f"{row['seconds']:9.2f}{row['defence']:11.3f}"
            + (f"  stopped: {row['failed'][0][:60]}" if row["failed"] else "")
        )
    return "\n".join(lines)


def spread(row: dict, name: str) -> str:
    """Mean and standard deviation over seeds."""
    value, sd = row[name], row[f"{name}_sd"]
    return f"{value:.3f}" if np.isnan(sd) else f"{value:.3f} ± {sd:.3f}"
