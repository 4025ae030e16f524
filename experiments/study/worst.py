"""What a campaign found: its lines, the worst case of each defence, and the tables of its page."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from metasg_jax.evaluation.attack_suite import OWN_KNOWLEDGE, ZOO
from metasg_jax.evaluation.statistics import crossed_interval, t_interval
from metasg_jax.evaluation.tables import markdown_table, with_error
from metasg_jax.evaluation.worst import Case, Played, as_strong, cases, gate
from metasg_jax.programs import exploit
from study.contestants import ATTACKS, SUBSTITUTE, Campaign, Defence, Trained
from study.settings import CARD

Lines = dict[Defence, list[Played]]


def lines_of(campaign: Campaign, outcomes: Path) -> Lines:
    """All lines of each defence.

    Raises:
        SystemExit: for a defence that has not been played to the end.
    """
    found = {}
    counts = {"selection": campaign.selection, "final": campaign.final}
    for defence in campaign.defences:
        rows = exploit.read(outcomes / defence.slug)
        wanted = {*ZOO, *(each.label for each in campaign.opponents_of(defence))}
        for stream, count in counts.items():
            for label in sorted(wanted):
                there = {r.world for r in rows if (r.label, r.stream) == (label, stream)}
                if not there >= set(range(count)):
                    raise SystemExit(f"{defence.slug}: {label} is not played; run stage play")
        found[defence] = [
            row for row in rows if row.label in wanted and row.world < counts[row.stream]
        ]
    return found


def own_lines(campaign: Campaign, outcomes: Path) -> Lines:
    """What attacks with their own knowledge do to the static defences.

    Raises:
        SystemExit: for a defence that has not been played to the end.
    """
    found = {}
    for defence in map(Defence, campaign.static):
        rows = exploit.read(outcomes / f"{defence.slug}-own")
        there = {(row.label, row.world) for row in rows if row.stream == "final"}
        if not there >= {(text, s) for text in OWN_KNOWLEDGE for s in range(campaign.final)}:
            raise SystemExit(f"{defence.slug}-own is not played; run stage play")
        found[defence] = [row for row in rows if row.world < campaign.final]
    return found


Responses = dict[tuple[str, str, str], np.ndarray]


def responses(campaign: Campaign, outcomes: Path, lines: Lines) -> Responses:
    """Scores f64[T, S] of the learned defences under the attacker that learned against each.

    By (learner, how it is deployed, attack); ``meta policy``, ``told and adapted``, ``randomized``.
    What has not been played on every seed and final world is left out.
    """
    found = {}
    for name in campaign.learners:
        ways: dict[str, dict] = {"meta policy": {}}
        ways |= {"told and adapted": {"told": True}} if name in campaign.adapted else {}
        ways |= {"randomized": {"randomized": True}} if name in campaign.randomized else {}
        for way, fields in ways.items():
            for attack in ATTACKS:
                made = {k: attack if k == "told" else v for k, v in fields.items()}
                defences = [Defence(name, seed, **made) for seed in campaign.seeds]
                each = [_under_its_own(d, attack, campaign, outcomes, lines) for d in defences]
                if all(scores is not None for scores in each):
                    found[name, way, attack] = np.array(each)
    return found


def _under_its_own(defence: Defence, attack: str, campaign: Campaign, outcomes: Path, lines: Lines):
    label = Trained(defence, attack).label
    rows = lines.get(defence) or exploit.read(outcomes / defence.slug)
    scores = {r.world: r.score for r in rows if (r.label, r.stream) == (label, "final")}
    worlds = range(campaign.final)
    return [scores[s] for s in worlds] if scores.keys() >= set(worlds) else None


class Worst(NamedTuple):
    """What a defence comes to; scores f64[T, S] of T training seeds, 1 of a rule, on final worlds.

    Attributes:
        name: of the defence.
        fixed: under the worst fixed attack, as each seed's selection worlds have it.
        tailored: under the worst of those tailored to the rule.
        learned: under the worst of the attackers that learned.
        worst: under the worst of all.
        hindsight: under the one that the final worlds themselves say is the worst.
        by: which attacks that was, each once.
        clean: accuracy without attack.
    """

    name: str
    fixed: np.ndarray
    tailored: np.ndarray
    learned: np.ndarray
    worst: np.ndarray
    hindsight: np.ndarray
    by: tuple[str, ...]
    clean: float


def worst_of(name: str, runs: list[list[Played]]) -> Worst:
    """The worst cases of a defence; a list of lines for each training seed."""
    kinds: dict[str, list] = {
        "fixed": [], "tailored": [], "learned": [], "worst": [], "hindsight": [],
    }  # fmt: skip
    by, clean = [], []
    for rows in runs:
        found = cases(rows, rows[0].defence)
        for case in found[:1]:
            kinds["worst"].append(case.final)
            by.append(_who(case))
        kinds["hindsight"].append(min((case.final for case in found), key=np.mean))
        for kind in ("fixed", "tailored", "learned"):
            kinds[kind].append(next(case.final for case in found if _kind(case) == kind))
        clean.append(next(case.accuracy for case in found if case.label == "none"))
    arrays = {kind: np.array(values) for kind, values in kinds.items()}
    return Worst(name, **arrays, by=tuple(dict.fromkeys(by)), clean=float(np.mean(clean)))


def _who(case: Case) -> str:
    """An attack, and whom its player learned from."""
    if not case.learned:
        return case.label
    attacker, _, attack = case.label.rstrip(")").partition(" (")
    return f"{attack} of {'the mean' if f'-{SUBSTITUTE}-' in attacker else 'its own'}"


def _kind(case: Case) -> str:
    if case.learned:
        return "learned"
    return "tailored" if case.label.startswith("tailored") else "fixed"


def by_robustness(everybody: dict[str, Worst]) -> list[Worst]:
    return sorted(everybody.values(), key=lambda each: -each.worst.mean())


def worst_table(everybody: dict[str, Worst], ours: Worst) -> str:
    """Each defence by its worst case, the most robust first."""
    rows = []
    for each in by_robustness(everybody):
        lead = "" if each is ours else with_error(*crossed_interval(ours.worst - each.worst), "+")
        scores = (each.hindsight, each.fixed, each.tailored, each.learned)
        rows.append(
            [each.name, f"{each.worst.mean():.3f}", "; ".join(each.by),
             *(f"{score.mean():.3f}" for score in scores), f"{each.clean:.3f}", lead]
        )  # fmt: skip
    header = ["defence", "worst", "by", "worst in hindsight", "worst fixed",
              "worst tailored", "worst learned", "clean", f"{ours.name} minus it"]  # fmt: skip
    return markdown_table(header, rows)


def gate_table(campaign: Campaign, lines: Lines, own: Lines) -> str:
    """Each attacker against the defence that it learned from, beside its strongest rival."""
    rows = []
    for each in campaign.library:
        if each.against not in lines:
            continue
        played = lines[each.against]
        spelled = played[0].defence
        told = gate(played, each.name, each.attack, spelled, CARD.fl.num_clients)
        assert told is not None, each
        mine, rival = told
        aware = "tailored_bfl@0.2" if each.attack.startswith("brl") else "tailored@0.2"
        tailored = next(c for c in cases(played, spelled) if c.label == aware)
        cells = [each.against.slug, each.attack, f"{each.seed}", with_error(*t_interval(mine)),
                 f"{tailored.final.mean():.3f}", *_beside(mine, rival)]  # fmt: skip
        alike = None
        if each.attack.startswith("rl") and each.against in own:
            rows_of = [*played, *own[each.against]]
            alike = gate(rows_of, each.name, each.attack, spelled, CARD.fl.num_clients, own=True)
        rows.append([*cells, *(("", "", "") if alike is None else _beside(*alike))])
    header = ["against", "attacker", "beginning", "its score", "tailored", "strongest rival",
              "difference", "gate", "strongest that knows as little", "difference",
              "as strong"]  # fmt: skip
    return markdown_table(header, rows)


def _beside(own: np.ndarray, rival: Case) -> tuple[str, str, str]:
    return (
        f"{rival.final.mean():.3f} ({rival.label})",
        with_error(*t_interval(own - rival.final), "+"),
        "passed" if as_strong(own, rival.final) else "FAILED",
    )


def knowledge_table(campaign: Campaign, lines: Lines) -> str:
    """Scores of each defence under attackers that know it, its rule, or nothing of it."""
    groups = {name: [Defence(name)] for name in campaign.static} | campaign.learned
    rows = []
    for name, group in groups.items():
        cells = []
        for attack in ATTACKS:
            for against in (None, campaign.rule, SUBSTITUTE):
                scores = [
                    case.final.mean()
                    for each in group
                    for case in cases(lines[each], lines[each][0].defence)
                    if case.label
                    == Trained(each if against is None else Defence(against), attack).label
                ]
                cells.append(f"{np.mean(scores):.3f}" if scores else "")
        rows.append([name, *cells])
    levels = ("knows it", "knows its rule", "knows nothing")
    header = ["defence", *(f"{a.partition('@')[0]}, {known}" for a in ATTACKS for known in levels)]
    return markdown_table(header, rows)


def response_table(campaign: Campaign, scores: Responses) -> str:
    """Each learned defence, deployed in each way, under the attacker that learned against it."""
    first = campaign.learners[0]
    rows = []
    for (name, way, attack), mine in scores.items():
        frozen, ours = scores[name, "meta policy", attack], scores.get((first, way, attack))
        gain = "" if way == "meta policy" else with_error(*crossed_interval(mine - frozen), "+")
        lead = "" if name == first or ours is None else with_error(
            *crossed_interval(ours - mine), "+"
        )  # fmt: skip
        rows.append([name, way, attack, with_error(*crossed_interval(mine)), gain, lead])
    header = ["learner", "deployed", "attacker", "score", "minus its meta policy",
              f"{first} minus it"]  # fmt: skip
    return markdown_table(header, rows)
