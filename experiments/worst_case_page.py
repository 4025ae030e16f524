"""The page of ``experiments/worst_case.py``: bottom line first, then one table a question."""

import json
from pathlib import Path

import numpy as np
from trust_page import results_in

from metasg_jax.evaluation.statistics import t_interval
from metasg_jax.evaluation.tables import markdown_table

LEVELS = (0.1, 0.5, 0.9)
SHOWN = (
    "v1", "v3 / fine_tune", "v3 / threshold=0.9 / fine_tune", "v3 / trim=0.3 / fine_tune", "told",
)  # fmt: skip
NOBODY: dict = {"rows": []}
ATTACKERS = ("zoo", "blend", "kept", "sleepers", "learned", "gradient")


def write_page(out: Path, studies: dict) -> None:
    """Writes ``worst_case.md`` beside the folder of results; its opening is kept in there."""
    found = results_in(out, studies)
    text = [(out / "opening.md").read_text().strip()]
    text += ["\n## The worst case of each defence\n", table_of_defences(found)]
    text += ["\n" + lead(found)]
    text += ["\n## What each attacker reaches\n", table_of_attackers(found)]
    text += ["\n## What an attacker has to know\n", table_of_knowledge(found)]
    if (out / "population.json").is_file():
        text += ["\n## Does a population pay?\n", (out / "population.md").read_text().strip()]
        text += ["\n" + table_of_population(out / "population.json")]
    if (out / "online.json").is_file():
        text += ["\n## Does adapting online pay?\n", (out / "online.md").read_text().strip()]
        text += ["\n" + table_of_online(out / "online.json")]
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
        if "threshold" in name and "fine_tune" not in name:
            continue  # it is in the JSON
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


def lead(found: dict) -> str:
    """How far :data:`SHOWN`'s own stand above the best static rule, by level."""
    rows = []
    for name in SHOWN[:-1]:
        row = [name]
        for level in LEVELS:
            static = [n for n in names_in(found) if not decides(n)]
            cases = {n: worst_of(found, n, level, ("zoo", "blend")) for n in static}
            met = [n for n in static if scores(found.get(f"blend-{level}", NOBODY), n) is not None]
            own = worst_of(found, name, level, ("zoo", "blend"))
            if not met or own is None:
                row.append("")
                continue
            best = max(met, key=lambda n: cases[n][2].mean())
            row.append(f"{cell(own[2] - cases[best][2])} ({best})")
        rows.append(row)
    return markdown_table(["worst case minus that of the best static rule", *_levels()], rows)


def table_of_attackers(found: dict) -> str:
    """The worst type of each attacker against those who decide about each client."""
    rows = []
    for attacker in ATTACKERS:
        for level in LEVELS:
            got = found.get(f"{attacker}-{level}")
            if got is not None:
                cases = [worst(got, name) for name in SHOWN]
                cells = ["" if case is None else cell(case[1]) for case in cases]
                rows.append([attacker, f"{level}", *cells])
    return markdown_table(["attacker", "q", *SHOWN], rows)


def decides(name: str) -> bool:
    """Whether it decides about each client."""
    return name.partition(" ")[0] in ("v1", "v3", "told") or name.startswith("runs/")


def table_of_knowledge(found: dict) -> str:
    """What the attacker loses where a part of its knowledge is taken away."""
    rows = []
    for level in LEVELS:
        for what in ("", "weights", "rows", "root"):
            got = found.get(f"without-{what}-{level}" if what else f"blend-{level}")
            if got is None:
                continue
            cells = []
            for name in SHOWN:
                values = scores(got, name)
                low = None if values is None else values[:, 1:3].mean(axis=0).min()
                cells.append("" if low is None else f"{low:.3f}")
            rows.append([what or "nothing", f"{level}", *cells])
    return markdown_table(["taken away", "q", *SHOWN], rows)


def table_of_population(path: Path) -> str:
    """The stages of pre-training, and Algorithm 2 beside Algorithm 1, over training seeds."""
    seeds = json.loads(path.read_text())["seeds"].values()
    who = {
        "taught": "the teacher alone (`taught`)",
        "meta_sg": "then Algorithm 2 with a population (`meta_sg`)",
        "meta_rl": "or Algorithm 1, as many rounds (`meta_rl`)",
        "meta_sg_alone": "or Algorithm 2 without a population, as many rounds",
        "meta_rl_short": "or Algorithm 1, as many episodes of a type (`make pretrain`)",
        "v3_meta_sg": "`v3`, then Algorithm 2 with a population",
        "v3_meta_rl": "`v3`, then Algorithm 1, as many rounds",
        "v3": "`v3`",
        "told": "perfect filter",
    }
    columns = {
        "the card's attacks, mean": lambda s, k: np.mean(s["card"]["score"][k]),
        "no attack": lambda s, k: np.mean(s["card"]["score"][k], axis=0)[0],
        "looking, for payoff": lambda s, k: np.mean(s["looking"]["score"][k], axis=0).min(),
        "looking, to be kept": lambda s, k: np.mean(s["kept"]["score"][k], axis=0).min(),
    }
    rows = []
    for k, label in who.items():
        had = [s for s in seeds if k in s["card"]["score"]]
        if not had:
            continue
        values = [np.array([of(s, k) for s in had]) for of in columns.values()]
        told = k in ("v3", "told")  # of no training seed
        cells = [f"{v[0]:.3f}" if told else cell(v) for v in values]
        rows.append([label, *cells, "" if told else f"{len(had)}"])
    for a, b in (("meta_sg", "taught"), ("meta_sg", "meta_rl")):
        gains = [np.array([of(s, a) - of(s, b) for s in seeds]) for of in columns.values()]
        rows.append([f"`{a}` minus `{b}`", *map(cell, gains), ""])
    table = markdown_table(["trained by", *columns, "seeds"], rows)
    earned = np.array([s["earned"]["blended_bfl@0.2"] for s in seeds])
    curve = ", ".join(f"{mean:.3f}" for mean in earned.mean(axis=0))
    return (
        f"{table}\n\nWhat the best response (`blended_bfl`) earned a round, by rounds of the "
        f"double oracle, mean over {len(earned)} seeds: {curve}."
    )


def table_of_online(path: Path) -> str:
    """What each way to adapt adds to the frozen policy, in pairs, over worlds."""
    worlds = list(json.loads(path.read_text())["worlds"].values())
    names = list(worlds[0]["frozen"])
    groups = {
        "types of its own world": names[:4],
        "`pgd`, `lmp`": names[4:6],
        "looking, for payoff": names[6:7],
        "looking, to be kept": names[7:8],
    }
    rows = []
    for arm in worlds[0]:
        row = [arm]
        for types in groups.values():
            means = {a: np.array([[w[a][t] for t in types] for w in worlds]).mean(axis=1)
                     for a in (arm, "frozen")}  # fmt: skip
            gain = means[arm] - means["frozen"]
            row.append(f"{means[arm].mean():.3f}" if arm == "frozen" else cell(gain))
        rows.append(row)
    return markdown_table(["score of the frozen policy; what others add to it", *groups], rows)


def _levels() -> list[str]:
    return [f"q = {level}" for level in LEVELS]
