"""The page of ``experiments/worst_case.py``: bottom line first, then one table a question."""

from pathlib import Path

import numpy as np
from trust_page import results_in

from metasg_jax.evaluation.statistics import t_interval
from metasg_jax.evaluation.tables import markdown_table

LEVELS = (0.1, 0.5, 0.9)
ATTACKERS = ("zoo", "blend", "kept", "sleepers", "learned", "gradient")


def write_page(out: Path, studies: dict) -> None:
    """Writes ``worst_case.md`` beside the folder of results; its opening is kept in there."""
    found = results_in(out, studies)
    text = [(out / "opening.md").read_text().strip()]
    text += ["\n## The worst case of each defence\n", table_of_defences(found)]
    text += ["\n## What each attacker reaches\n", table_of_attackers(found)]
    text += ["\n## What an attacker has to know\n", table_of_knowledge(found)]
    text += ["\n## By type\n", by_type(found)]
    (out.parent / "worst_case.md").write_text("\n".join(text) + "\n")


def scores(result: dict, name: str) -> np.ndarray | None:
    """[worlds, types]; None where it did not play."""
    return next((np.array(r["score"]) for r in result["rows"] if r["contestant"] == name), None)


def worst(result: dict, name: str) -> tuple[str, np.ndarray] | None:
    """(type, scores by world) of the type with the lowest mean."""
    got = scores(result, name)
    if got is None:
        return None
    k = int(got.mean(axis=0).argmin())
    return result["types"][k], got[:, k]


def names_in(found: dict) -> list[str]:
    """All who played, in the order of play."""
    return list(dict.fromkeys(r["contestant"] for one in found.values() for r in one["rows"]))


def cell(values: np.ndarray) -> str:
    """``0.83 ± 0.02``, over worlds."""
    mean, half = t_interval(values)
    return f"{mean:.3f} ± {half:.3f}"


def worst_of(found: dict, name: str, level: float, attackers=ATTACKERS):
    """(attacker, type, scores by world) of the lowest mean over these attackers' studies."""
    cases = []
    for attacker in attackers:
        got = found.get(f"{attacker}-{level}")
        case = None if got is None else worst(got, name)
        if case is not None:
            cases.append((case[1].mean(), attacker, *case))
    return min(cases, key=lambda c: c[0])[1:] if cases else None


def table_of_defences(found: dict) -> str:
    """Worst case over the zoo and the blends that all defences met; clean score beside it."""
    rows = []
    for name in names_in(found):
        row = [name]
        for level in LEVELS:
            zoo = found.get(f"zoo-{level}")
            clean = None if zoo is None else scores(zoo, name)
            case = worst_of(found, name, level, ("zoo", "blend"))
            shown = "" if clean is None else f"{clean[:, 0].mean():.3f}"
            row += [shown, "" if case is None else f"{cell(case[2])} ({case[1]})"]
        if any(row[1:]):
            rows.append(row)
    head = [h for level in LEVELS for h in (f"no attack, q = {level}", f"worst, q = {level}")]
    return markdown_table(["defence", *head], rows)


def table_of_attackers(found: dict) -> str:
    """The worst type of each attacker against those who decide about each client."""
    rows = []
    for attacker in ATTACKERS:
        for level in LEVELS:
            got = found.get(f"{attacker}-{level}")
            if got is None:
                continue
            for row in got["rows"]:
                name = row["contestant"]
                if attacker in ("zoo", "blend") and not decides(name):
                    continue
                kind, values = worst(got, name)  # pyrefly: ignore
                rows.append([attacker, f"{level}", name, cell(values), kind])
    return markdown_table(["attacker", "q", "defence", "worst score", "type"], rows)


def decides(name: str) -> bool:
    """Whether it decides about each client."""
    return name.partition(" ")[0] in ("v1", "v2", "told") or name.startswith("runs/")


def table_of_knowledge(found: dict) -> str:
    """What the attacker loses where a part of its knowledge is taken away."""
    rows = []
    for level in LEVELS:
        for what in ("", "weights", "rows", "root"):
            got = found.get(f"without-{what}-{level}" if what else f"blend-{level}")
            for row in [] if got is None else got["rows"]:
                name = row["contestant"]
                if decides(name):
                    values = np.array(row["score"])[:, 1:3].mean(axis=0).min()
                    rows.append([f"{level}", what or "nothing", name, f"{values:.3f}"])
    header = ["q", "taken away", "defence", "worse of the two diluted backdoors"]
    return markdown_table(header, rows)


def by_type(found: dict) -> str:
    """Scores and attack successes of every study."""
    text = []
    for study, got in found.items():
        rows = []
        for row in got["rows"]:
            score, asr = np.array(row["score"]).mean(axis=0), np.array(row["asr"], float)
            cells = [
                f"{s:.3f}" + ("" if np.isnan(a) else f" ({a:.2f})")
                for s, a in zip(score, asr.mean(axis=0), strict=True)
            ]
            rows.append([row["contestant"], *cells])
        text.append(f"\n**{study}**, score (attack success)\n")
        text.append(markdown_table(["defence", *got["types"]], rows))
    return "\n".join(text)
